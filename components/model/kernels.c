// What a decoder computes between its matrix products, and attention over short contexts: `kernels.py` calls these.
//
// Shapes: B batch, T positions, H query heads, K key heads, C head dimension, D width, F hidden width, V vocabulary.
// Every sum has a fixed order for a given number of threads, so a step gives the same bits each time.
// No finite-math flags: a NaN must reach the loss.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE inline __attribute__((always_inline))
#define PARALLEL _Pragma("omp parallel for num_threads(threads) if (threads > 1) schedule(static)")
#define SIMD _Pragma("omp simd")
#define TEXT(x) #x
#define SUM(x) _Pragma(TEXT(omp simd reduction(+ : x)))

static INLINE vec either(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

// Relative error below 2e-7; 0 below -87, finite above 88, NaN stays NaN.
static INLINE vec exponential(vec x) {
    ivec tiny = x < -87.0f;
    x = either(tiny, (vec){0} - 87.0f, either(x > 88.0f, (vec){0} + 88.0f, x));
    ivec exponent = __builtin_convertvector(x * 1.44269504f + 127.5f, ivec);
    vec n = __builtin_convertvector(exponent, vec) - 127.0f;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return either(tiny, (vec){0}, p * (vec)(exponent << 23));
}

// y = exp(x * scale - top), and the sum
static INLINE float powers_of(const float* x, float* y, long n, float scale, float top) {
    vec total = {0};
    long i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec e = exponential(*(const vec*)(x + i) * scale - top);
        *(vec*)(y + i) = e;
        total += e;
    }
    float sum = 0, rest[LANES];
    for (int l = 0; l < LANES; l++) rest[l] = i + l < n ? x[i + l] * scale - top : -__builtin_inff();
    vec e = exponential(*(vec*)rest);
    total += e;
    for (; i < n; i++) y[i] = e[i % LANES];
    for (int l = 0; l < LANES; l++) sum += total[l];
    return sum;
}

static INLINE vec load(const float* x, long n) {  // zeros past n
    if (n >= LANES) return *(const vec*)x;
    float some[LANES] = {0};
    for (long i = 0; i < n; i++) some[i] = x[i];
    return *(vec*)some;
}

static INLINE void store(float* x, long n, vec value) {
    if (n >= LANES) *(vec*)x = value;
    else
        for (long i = 0; i < n; i++) x[i] = value[i];
}

static INLINE float largest(const float* x, long n) {
    float lane[8];
    for (int l = 0; l < 8; l++) lane[l] = -3.4e38f;
    long i = 0;
    for (; i + 8 <= n; i += 8)
        for (int l = 0; l < 8; l++) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (; i < n; i++) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (int l = 1; l < 8; l++) lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
    return lane[0];
}

static INLINE float inverse_rms(const float* x, long d, float eps) {
    float square = 0;
    SUM(square) for (long i = 0; i < d; i++) square += x[i] * x[i];
    return 1.0f / __builtin_sqrtf(square / d + eps);
}

static void add_parts(const float* parts, float* out, long d, int threads) {
    for (int p = 0; p < threads; p++) {
        const float* part = parts + p * d;
        SIMD for (long i = 0; i < d; i++) out[i] += part[i];
    }
}

// total = x + delta (delta may be null: total is not written), y = total / rms(total) * w
void norm_forward(const float* x, const float* delta, const float* w, float* total, float* y, float* rstd, long rows,
                  long d, float eps, int threads) {
    PARALLEL for (long row = 0; row < rows; row++) {
        const float* from = x + row * d;
        if (delta) {
            const float* more = delta + row * d;
            float* to = total + row * d;
            SIMD for (long i = 0; i < d; i++) to[i] = from[i] + more[i];
            from = to;
        }
        float r = rstd[row] = inverse_rms(from, d, eps);
        float* out = y + row * d;
        SIMD for (long i = 0; i < d; i++) out[i] = from[i] * r * w[i];
    }
}

// dx = the norm's gradient plus that of the residual stream (may be null); dw must come zeroed
void norm_backward(const float* x, const float* w, const float* rstd, const float* dy, const float* residual, float* dx,
                   float* dw, long rows, long d, int threads) {
    float* parts = calloc(threads * d, sizeof(float));
    PARALLEL for (int part = 0; part < threads; part++) {
        float* sum = parts + part * d;
        for (long row = rows * part / threads; row < rows * (part + 1) / threads; row++) {
            const float *from = x + row * d, *g = dy + row * d;
            float* out = dx + row * d;
            float r = rstd[row], dot = 0;
            SUM(dot) for (long i = 0; i < d; i++) dot += g[i] * w[i] * from[i];
            float pull = dot * r * r * r / d;
            SIMD for (long i = 0; i < d; i++) {
                out[i] = g[i] * w[i] * r - from[i] * pull;
                sum[i] += g[i] * from[i] * r;
            }
            if (residual) {
                const float* more = residual + row * d;
                SIMD for (long i = 0; i < d; i++) out[i] += more[i];
            }
        }
    }
    add_parts(parts, dw, d, threads);
    free(parts);
}

// qkv [B, T, H + 2K, C] -> q [B, H, T, C], k and v [B, K, T, C]; q and k normed (weights may be null) and rotated.
// cosines and sines [T, C/2], or [B, T, C/2] with stride T * C/2.
void heads_forward(const float* qkv, const float* qw, const float* kw, const float* cosines, const float* sines,
                   long stride, float* q, float* k, float* v, long B, long T, long H, long K, long C, float eps,
                   int threads) {
    long half = C / 2;
    PARALLEL for (long bt = 0; bt < B * T; bt++) {
        long b = bt / T, t = bt % T;
        const float *cos = cosines + b * stride + t * half, *sin = sines + b * stride + t * half;
        for (long h = 0; h < H + K; h++) {
            const float* x = qkv + (bt * (H + 2 * K) + h) * C;
            const float* w = h < H ? qw : kw;
            float* y = h < H ? q + ((b * H + h) * T + t) * C : k + ((b * K + h - H) * T + t) * C;
            if (w) {
                float r = inverse_rms(x, C, eps);
                SIMD for (long i = 0; i < half; i++) {
                    float first = x[i] * r * w[i], second = x[i + half] * r * w[i + half];
                    y[i] = first * cos[i] - second * sin[i];
                    y[i + half] = second * cos[i] + first * sin[i];
                }
            } else {
                SIMD for (long i = 0; i < half; i++) {
                    y[i] = x[i] * cos[i] - x[i + half] * sin[i];
                    y[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
                }
            }
        }
        for (long h = 0; h < K; h++)
            memcpy(v + ((b * K + h) * T + t) * C, qkv + (bt * (H + 2 * K) + H + K + h) * C, C * sizeof(float));
    }
}

// The inverse way; dqw and dkw (null without norms) must come zeroed.
void heads_backward(const float* qkv, const float* qw, const float* kw, const float* cosines, const float* sines,
                    long stride, const float* dq, const float* dk, const float* dv, float* dqkv, float* dqw, float* dkw,
                    long B, long T, long H, long K, long C, float eps, int threads) {
    long half = C / 2, rows = B * T;
    float *parts = calloc(threads * 2 * C, sizeof(float)), *turned = malloc(threads * C * sizeof(float));
    PARALLEL for (int part = 0; part < threads; part++) {
        float* g = turned + part * C;
        for (long bt = rows * part / threads; bt < rows * (part + 1) / threads; bt++) {
            long b = bt / T, t = bt % T;
            const float *cos = cosines + b * stride + t * half, *sin = sines + b * stride + t * half;
            for (long h = 0; h < H + K; h++) {
                const float* x = qkv + (bt * (H + 2 * K) + h) * C;
                const float* dy = h < H ? dq + ((b * H + h) * T + t) * C : dk + ((b * K + h - H) * T + t) * C;
                const float* w = h < H ? qw : kw;
                float* out = dqkv + (bt * (H + 2 * K) + h) * C;
                float* back = w ? g : out;
                SIMD for (long i = 0; i < half; i++) {
                    back[i] = dy[i] * cos[i] + dy[i + half] * sin[i];
                    back[i + half] = dy[i + half] * cos[i] - dy[i] * sin[i];
                }
                if (!w) continue;
                float* sum = parts + (part * 2 + (h < H ? 0 : 1)) * C;
                float r = inverse_rms(x, C, eps), dot = 0;
                SUM(dot) for (long i = 0; i < C; i++) dot += g[i] * w[i] * x[i];
                float pull = dot * r * r * r / C;
                SIMD for (long i = 0; i < C; i++) {
                    out[i] = g[i] * w[i] * r - x[i] * pull;
                    sum[i] += g[i] * x[i] * r;
                }
            }
            for (long h = 0; h < K; h++)
                memcpy(dqkv + (bt * (H + 2 * K) + H + K + h) * C, dv + ((b * K + h) * T + t) * C,
                            C * sizeof(float));
        }
    }
    if (qw)
        for (int part = 0; part < threads; part++)
            for (long i = 0; i < C; i++) {
                dqw[i] += parts[part * 2 * C + i];
                dkw[i] += parts[(part * 2 + 1) * C + i];
            }
    free(parts), free(turned);
}

// One tile of c = a b (or c += a b): R rows by two vectors of columns, over `depth`; a by strides, b and c by rows.
static INLINE void tile(const int R, const float* a, long a_row, long a_column, const float* b, long b_row, float* c,
                        long c_row, long depth, int add) {
    vec sum[6][2];
    for (int r = 0; r < R; r++)
        for (int i = 0; i < 2; i++) sum[r][i] = add ? *(vec*)(c + r * c_row + i * LANES) : (vec){0};
    for (long k = 0; k < depth; k++) {
        vec first = *(const vec*)(b + k * b_row), second = *(const vec*)(b + k * b_row + LANES);
        _Pragma("GCC unroll 6") for (int r = 0; r < R; r++) {
            float x = a[r * a_row + k * a_column];
            sum[r][0] += x * first;
            sum[r][1] += x * second;
        }
    }
    for (int r = 0; r < R; r++)
        for (int i = 0; i < 2; i++) *(vec*)(c + r * c_row + i * LANES) = sum[r][i];
}

// Up to six rows of a product, `columns` padded to whole tiles.
static void strip(long R, const float* a, long a_row, long a_column, const float* b, long b_row, float* c, long c_row,
                  long columns, long depth, int add) {
    for (long j = 0; j < columns; j += 2 * LANES) {
        if (R == 6) tile(6, a, a_row, a_column, b + j, b_row, c + j, c_row, depth, add);
        else
            for (long r = 0; r < R; r++)
                tile(1, a + r * a_row, a_row, a_column, b + j, b_row, c + r * c_row + j, c_row, depth, add);
    }
}

static void pad(const float* x, long zrow, float* y, long rows, long C, long padded) {
    for (long i = 0; i < rows; i++) {
        memcpy(y + i * padded, x + i * zrow, C * sizeof(float));
        for (long c = C; c < padded; c++) y[i * padded + c] = 0;
    }
}

static void pad_transposed(const float* x, float* y, long rows, long C, long padded) {
    for (long c = 0; c < C; c++) {
        for (long i = 0; i < rows; i++) y[c * padded + i] = x[i * C + c];
        for (long i = rows; i < padded; i++) y[c * padded + i] = 0;
    }
}

static inline long whole(long n) { return (n + 2 * LANES - 1) / (2 * LANES) * (2 * LANES); }

// Keys are padded to a multiple of this; the caller allocates probabilities [B, H, T, whole(T)].
long attention_padding(void) { return 2 * LANES; }

// q [B, H, T, C], k and v [B, K, T, C] -> out [B, T, H, C]. mask [T, T] with batch stride; null: causal, and then only
// the tiles on and below the diagonal are computed (or read on the way back).
void attention_forward(const float* q, const float* k, const float* v, const uint8_t* mask, long stride, float* probs,
                       float* out, long B, long T, long H, long K, long C, float scale, int threads) {
    long Tp = whole(T), Cp = whole(C);
    PARALLEL for (long bh = 0; bh < B * H; bh++) {
        long b = bh / H, h = bh % H, kv = b * K + h / (H / K);
        float* scratch = malloc((C * Tp + T * Cp + 6 * Cp) * sizeof(float));
        float *kt = scratch, *vp = kt + C * Tp, *y = vp + T * Cp;
        pad_transposed(k + kv * T * C, kt, T, C, Tp);
        pad(v + kv * T * C, C, vp, T, C, Cp);
        for (long i = 0; i < T; i += 6) {
            long R = T - i < 6 ? T - i : 6, n = mask ? T : i + R;
            float* p = probs + (bh * T + i) * Tp;
            strip(R, q + (bh * T + i) * C, C, 1, kt, Tp, p, Tp, whole(n), C, 0);
            for (long r = 0; r < R; r++) {
                float* s = p + r * Tp;
                long m = mask ? T : i + r + 1;
                if (mask) {
                    const uint8_t* seen = mask + b * stride + (i + r) * T;
                    SIMD for (long j = 0; j < T; j++) s[j] = seen[j] ? s[j] : -__builtin_inff();
                }
                float top = largest(s, m) * scale;
                float share = 1.0f / powers_of(s, s, m, scale, top);
                SIMD for (long j = 0; j < m; j++) s[j] *= share;
                for (long j = m; j < whole(n); j++) s[j] = 0;
            }
            strip(R, p, Tp, 1, vp, Cp, y, Cp, Cp, n, 0);
            for (long r = 0; r < R; r++) memcpy(out + ((b * T + i + r) * H + h) * C, y + r * Cp, C * sizeof(float));
        }
        free(scratch);
    }
}

void attention_backward(const float* q, const float* k, const float* v, const float* probs, const float* dout,
                        int causal, float* dq, float* dk, float* dv, long B, long T, long H, long K, long C,
                        float scale, int threads) {
    long Tp = whole(T), Cp = whole(C), G = H / K;
    PARALLEL for (long kv = 0; kv < B * K; kv++) {
        long b = kv / K;
        float* scratch = malloc((T * Tp + C * Tp + 5 * T * Cp + 6 * Cp) * sizeof(float));
        float *d = scratch, *vt = d + T * Tp, *kp = vt + C * Tp, *qp = kp + T * Cp, *dy = qp + T * Cp;
        float *dkp = dy + T * Cp, *dvp = dkp + T * Cp, *line = dvp + T * Cp;
        pad_transposed(v + kv * T * C, vt, T, C, Tp);
        pad(k + kv * T * C, C, kp, T, C, Cp);
        for (long g = 0; g < G; g++) {
            long h = kv % K * G + g, bh = b * H + h;
            const float* p = probs + bh * T * Tp;
            pad(q + bh * T * C, C, qp, T, C, Cp);
            pad(dout + (b * T * H + h) * C, H * C, dy, T, C, Cp);
            for (long i = 0; i < T; i += 6) {
                long R = T - i < 6 ? T - i : 6, n = causal ? i + R : T;
                strip(R, dy + i * Cp, Cp, 1, vt, Tp, d + i * Tp, Tp, whole(n), C, 0);
                for (long r = 0; r < R; r++) {
                    const float* share = p + (i + r) * Tp;
                    float *x = d + (i + r) * Tp, dot = 0;
                    SUM(dot) for (long j = 0; j < n; j++) dot += share[j] * x[j];
                    SIMD for (long j = 0; j < n; j++) x[j] = share[j] * (x[j] - dot) * scale;
                    for (long j = n; j < whole(n); j++) x[j] = 0;
                }
                strip(R, d + i * Tp, Tp, 1, kp, Cp, line, Cp, Cp, n, 0);
                for (long r = 0; r < R; r++) memcpy(dq + (bh * T + i + r) * C, line + r * Cp, C * sizeof(float));
            }
            for (long j = 0; j < T; j += 6) {  // queries before j do not see key j
                long R = T - j < 6 ? T - j : 6, from = causal ? j : 0;
                strip(R, d + from * Tp + j, 1, Tp, qp + from * Cp, Cp, dkp + j * Cp, Cp, Cp, T - from, g > 0);
                strip(R, p + from * Tp + j, 1, Tp, dy + from * Cp, Cp, dvp + j * Cp, Cp, Cp, T - from, g > 0);
            }
        }
        for (long i = 0; i < T; i++) {
            memcpy(dk + (kv * T + i) * C, dkp + i * Cp, C * sizeof(float));
            memcpy(dv + (kv * T + i) * C, dvp + i * Cp, C * sizeof(float));
        }
        free(scratch);
    }
}

// --- Matrix products, for processors on which torch's library leaves some of the peak unused -------------------------

#define ROWS 6
#define COLUMNS (2 * LANES)
#define DEPTH 256  // of one chunk: a panel of it stays in the first cache
#define BLOCK 96   // rows that a thread packs at a time

// A tile from packed a [depth][ROWS] and b [depth][COLUMNS]
static INLINE void packed_tile(const float* a, const float* b, float* c, long c_row, long depth, int add) {
    vec sum[ROWS][2];
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < 2; i++) sum[r][i] = add ? *(vec*)(c + r * c_row + i * LANES) : (vec){0};
    for (long k = 0; k < depth; k++) {
        vec first = *(const vec*)(b + k * COLUMNS), second = *(const vec*)(b + k * COLUMNS + LANES);
        _Pragma("GCC unroll 6") for (int r = 0; r < ROWS; r++) {
            float x = a[k * ROWS + r];
            sum[r][0] += x * first;
            sum[r][1] += x * second;
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < 2; i++) *(vec*)(c + r * c_row + i * LANES) = sum[r][i];
}

// The same from unpacked rows of a
static INLINE void direct_tile(const float* a, long a_row, const float* b, float* c, long c_row, long depth, int add) {
    vec sum[ROWS][2];
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < 2; i++) sum[r][i] = add ? *(vec*)(c + r * c_row + i * LANES) : (vec){0};
    const float *a0 = a, *a1 = a + a_row, *a2 = a1 + a_row, *a3 = a2 + a_row, *a4 = a3 + a_row, *a5 = a4 + a_row;
    for (long k = 0; k < depth; k++) {
        vec first = *(const vec*)(b + k * COLUMNS), second = *(const vec*)(b + k * COLUMNS + LANES);
        sum[0][0] += a0[k] * first, sum[0][1] += a0[k] * second;
        sum[1][0] += a1[k] * first, sum[1][1] += a1[k] * second;
        sum[2][0] += a2[k] * first, sum[2][1] += a2[k] * second;
        sum[3][0] += a3[k] * first, sum[3][1] += a3[k] * second;
        sum[4][0] += a4[k] * first, sum[4][1] += a4[k] * second;
        sum[5][0] += a5[k] * first, sum[5][1] += a5[k] * second;
    }
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < 2; i++) *(vec*)(c + r * c_row + i * LANES) = sum[r][i];
}

static void pack_columns(const float* b, long row, long column, float* to, long n, long depth) {
    if (column == 1 && n == COLUMNS)
        for (long k = 0; k < depth; k++) memcpy(to + k * COLUMNS, b + k * row, COLUMNS * sizeof(float));
    else
        for (long j = 0; j < COLUMNS; j++)
            for (long k = 0; k < depth; k++) to[k * COLUMNS + j] = j < n ? b[k * row + j * column] : 0;
}

static void pack_rows(const float* a, long row, long column, float* to, long m, long depth) {
    if (m == ROWS && row == 1)
        for (long k = 0; k < depth; k++) memcpy(to + k * ROWS, a + k * column, ROWS * sizeof(float));
    else
        for (long k = 0; k < depth; k++)
            for (int r = 0; r < ROWS; r++) to[k * ROWS + r] = r < m ? a[r * row + k * column] : 0;
}

// c [M, N] = a [M, K] b [K, N], a and b by strides, after Goto & van de Geijn (2008)
void product(const float* a, long a_row, long a_column, const float* b, long b_row, long b_column, float* c, long M,
             long N, long K, int threads) {
    long panels = (N + COLUMNS - 1) / COLUMNS, strips = (M + ROWS - 1) / ROWS, per_block = BLOCK / ROWS;
    float* packed = malloc((panels * COLUMNS * K + 1) * sizeof(float));
    PARALLEL for (long p = 0; p < panels; p++)
        for (long k0 = 0; k0 < K; k0 += DEPTH) {
            long depth = K - k0 < DEPTH ? K - k0 : DEPTH, n = N - p * COLUMNS < COLUMNS ? N - p * COLUMNS : COLUMNS;
            float* to = packed + k0 * panels * COLUMNS + p * COLUMNS * depth;
            pack_columns(b + k0 * b_row + p * COLUMNS * b_column, b_row, b_column, to, n, depth);
        }
    PARALLEL for (long s0 = 0; s0 < strips; s0 += per_block) {
        long s1 = s0 + per_block < strips ? s0 + per_block : strips;
        float buffer[BLOCK * DEPTH], edge[ROWS * COLUMNS] = {0};
        for (long k0 = 0; k0 < K; k0 += DEPTH) {
            long depth = K - k0 < DEPTH ? K - k0 : DEPTH;
            for (long s = s0; s < s1; s++) {
                long m = M - s * ROWS < ROWS ? M - s * ROWS : ROWS;
                if (a_column == 1 && m == ROWS) continue;  // read where it lies
                pack_rows(a + s * ROWS * a_row + k0 * a_column, a_row, a_column, buffer + (s - s0) * ROWS * depth, m,
                          depth);
            }
            for (long p = 0; p < panels; p++) {
                const float* right = packed + k0 * panels * COLUMNS + p * COLUMNS * depth;
                long n = N - p * COLUMNS < COLUMNS ? N - p * COLUMNS : COLUMNS;
                for (long s = s0; s < s1; s++) {
                    long m = M - s * ROWS < ROWS ? M - s * ROWS : ROWS;
                    int full = m == ROWS && n == COLUMNS;
                    float *place = c + s * ROWS * N + p * COLUMNS, *out = full ? place : edge;
                    long out_row = full ? N : COLUMNS;
                    for (long r = 0; r < m; r++)
                        if (!full && k0) memcpy(edge + r * COLUMNS, place + r * N, n * sizeof(float));
                    if (a_column == 1 && m == ROWS)
                        direct_tile(a + s * ROWS * a_row + k0, a_row, right, out, out_row, depth, k0 > 0);
                    else
                        packed_tile(buffer + (s - s0) * ROWS * depth, right, out, out_row, depth, k0 > 0);
                    for (long r = 0; r < m; r++)
                        if (!full) memcpy(place + r * N, edge + r * COLUMNS, n * sizeof(float));
                }
            }
        }
    }
    free(packed);
}

// --- What lies between the products ----------------------------------------------------------------------------------

// y = silu(gate) * up of rows [gate | up]
void swiglu_forward(const float* x, float* y, long rows, long F, int threads) {
    PARALLEL for (long row = 0; row < rows; row++) {
        const float *gate = x + row * 2 * F, *up = gate + F;
        float* out = y + row * F;
        for (long i = 0; i < F; i += LANES) {
            vec g = load(gate + i, F - i);
            store(out + i, F - i, g / (1.0f + exponential(-g)) * load(up + i, F - i));
        }
    }
}

void swiglu_backward(const float* x, const float* dy, float* dx, long rows, long F, int threads) {
    PARALLEL for (long row = 0; row < rows; row++) {
        const float *gate = x + row * 2 * F, *up = gate + F, *g = dy + row * F;
        float *dgate = dx + row * 2 * F, *dup = dgate + F;
        for (long i = 0; i < F; i += LANES) {
            vec z = load(gate + i, F - i), back = load(g + i, F - i), s = 1.0f / (1.0f + exponential(-z));
            store(dup + i, F - i, back * z * s);
            store(dgate + i, F - i, back * load(up + i, F - i) * s * (1.0f + z * (1.0f - s)));
        }
    }
}

// sums[0] cross-entropy and sums[1] squared log-normalizers of rows with a target, times the row's weight (null: 1);
// powers and norms are for the way back
void entropy_forward(const float* logits, const int64_t* targets, const float* weights, long ignore, float* powers,
                     float* norms, double* sums, long rows, long V, int threads) {
    double* parts = calloc(threads * 2, sizeof(double));
    PARALLEL for (int part = 0; part < threads; part++)
        for (long row = rows * part / threads; row < rows * (part + 1) / threads; row++) {
            if (targets[row] == ignore) continue;
            const float* x = logits + row * V;
            float top = largest(x, V), sum = powers_of(x, powers + row * V, V, 1.0f, top);
            float norm = top + __builtin_logf(sum);
            norms[row * 2] = sum;
            norms[row * 2 + 1] = norm;
            double weight = weights ? weights[row] : 1.0f;
            parts[part * 2] += weight * (norm - x[targets[row]]);
            parts[part * 2 + 1] += weight * norm * norm;
        }
    for (int part = 0; part < threads; part++) {
        sums[0] += parts[part * 2];
        sums[1] += parts[part * 2 + 1];
    }
    free(parts);
}

void entropy_backward(const float* powers, const float* norms, const int64_t* targets, const float* weights,
                      long ignore, float g, float gz, float* d, long rows, long V, int threads) {
    PARALLEL for (long row = 0; row < rows; row++) {
        float* out = d + row * V;
        if (targets[row] == ignore) {
            memset(out, 0, V * sizeof(float));
            continue;
        }
        const float* e = powers + row * V;
        float weight = weights ? weights[row] : 1.0f;
        float factor = weight * (g + 2.0f * gz * norms[row * 2 + 1]) / norms[row * 2];
        SIMD for (long j = 0; j < V; j++) out[j] = e[j] * factor;
        out[targets[row]] -= weight * g;
    }
}

// dw, which must come zeroed, gets row i of dy at tokens[i]
void embedding_backward(const int64_t* tokens, const float* dy, float* dw, long rows, long D) {
    for (long row = 0; row < rows; row++) {
        float* to = dw + tokens[row] * D;
        const float* from = dy + row * D;
        SIMD for (long i = 0; i < D; i++) to[i] += from[i];
    }
}
