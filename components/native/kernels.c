// What a decoder computes between its matrix products, and attention over short contexts: `kernels.py` calls these.
//
// Shapes: B batch, T positions, H query heads, K key heads, C head dimension, D width, F hidden width, V vocabulary.
// Every sum has a fixed order for a given number of threads, so a step gives the same bits each time.
// No finite-math flags: a NaN must reach the loss.
#include "kernels.h"

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

// total = x + delta (delta may be null: total is not written), y = total / rms(total) * w
void norm_forward(const float* x, const float* delta, const float* w, float* total, float* y, float* rstd, long rows,
                  long d, float eps, int threads) {
    EACH(for (long row = 0; row < rows; row++) {
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
    })
}

// dx = the norm's gradient plus that of the residual stream (may be null); dw must come zeroed; y again, unless null
void norm_backward(const float* x, const float* w, const float* rstd, const float* dy, const float* residual, float* dx,
                   float* dw, float* y, long rows, long d, int threads) {
    float* parts = calloc((threads - 1) * d + 1, sizeof(float));
    EACH(for (int part = 0; part < threads; part++) {
        float* sum = part ? parts + (part - 1) * d : dw;
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
            if (y) {
                float* again = y + row * d;
                SIMD for (long i = 0; i < d; i++) again[i] = from[i] * r * w[i];
            }
        }
    })
    if (threads > 1) add_parts(parts, dw, d, threads - 1, 1);
    free(parts);
}

// One head of one position: normed (w may be null) and rotated
static INLINE void turn(const float* x, const float* w, const float* cos, const float* sin, float* y, const long C,
                        float eps) {
    long half = C / 2;
    float r = w ? inverse_rms(x, C, eps) : 1.0f;
    SIMD for (long i = 0; i < half; i++) {
        float first = w ? x[i] * r * w[i] : x[i], second = w ? x[i + half] * r * w[i + half] : x[i + half];
        y[i] = first * cos[i] - second * sin[i];
        y[i + half] = second * cos[i] + first * sin[i];
    }
}

// The inverse way; dw is added to
static INLINE void turn_back(const float* x, const float* w, const float* cos, const float* sin, const float* dy,
                             float* dx, float* dw, const long C, float eps) {
    long half = C / 2;
    SIMD for (long i = 0; i < half; i++) {
        float first = dy[i], second = dy[i + half];
        dx[i] = first * cos[i] + second * sin[i];
        dx[i + half] = second * cos[i] - first * sin[i];
    }
    if (!w) return;
    float r = inverse_rms(x, C, eps), dot = 0;
    SUM(dot) for (long i = 0; i < C; i++) dot += dx[i] * w[i] * x[i];
    float pull = dot * r * r * r / C;
    SIMD for (long i = 0; i < C; i++) {
        float g = dx[i];
        dx[i] = g * w[i] * r - x[i] * pull;
        dw[i] += g * x[i] * r;
    }
}

// Loops over a head have a length that the compiler knows where it is a usual one.
#define BY_WIDTH(way, ...) \
    if (C == 32) way(__VA_ARGS__, 32, eps); \
    else if (C == 64) way(__VA_ARGS__, 64, eps); \
    else way(__VA_ARGS__, C, eps)

// qkv [B, T, H + 2K, C] -> q [B, H, T, C], k and v [B, K, T, C]; q and k normed (weights may be null) and rotated.
// cosines and sines [T, C/2], or [B, T, C/2] with stride T * C/2.
void heads_forward(const float* qkv, const float* qw, const float* kw, const float* cosines, const float* sines,
                   long stride, float* q, float* k, float* v, long B, long T, long H, long K, long C, float eps,
                   int threads) {
    EACH(for (long bt = 0; bt < B * T; bt++) {
        long b = bt / T, t = bt % T;
        const float *cos = cosines + b * stride + t * C / 2, *sin = sines + b * stride + t * C / 2;
        const float* x = qkv + bt * (H + 2 * K) * C;
        for (long h = 0; h < H; h++, x += C) BY_WIDTH(turn, x, qw, cos, sin, q + ((b * H + h) * T + t) * C);
        for (long h = 0; h < K; h++, x += C) BY_WIDTH(turn, x, kw, cos, sin, k + ((b * K + h) * T + t) * C);
        for (long h = 0; h < K; h++, x += C) memcpy(v + ((b * K + h) * T + t) * C, x, C * sizeof(float));
    })
}

// The inverse way; dqw and dkw (null without norms) must come zeroed.
void heads_backward(const float* qkv, const float* qw, const float* kw, const float* cosines, const float* sines,
                    long stride, const float* dq, const float* dk, const float* dv, float* dqkv, float* dqw, float* dkw,
                    long B, long T, long H, long K, long C, float eps, int threads) {
    long rows = B * T;
    float* parts = calloc(threads * 2 * C, sizeof(float));
    EACH(for (int part = 0; part < threads; part++) {
        float *qsum = parts + part * 2 * C, *ksum = qsum + C;
        for (long bt = rows * part / threads; bt < rows * (part + 1) / threads; bt++) {
            long b = bt / T, t = bt % T;
            const float *cos = cosines + b * stride + t * C / 2, *sin = sines + b * stride + t * C / 2;
            const float *x = qkv + bt * (H + 2 * K) * C, *from;
            float* dx = dqkv + bt * (H + 2 * K) * C;
            for (long h = 0; h < H; h++, x += C, dx += C) {
                from = dq + ((b * H + h) * T + t) * C;
                BY_WIDTH(turn_back, x, qw, cos, sin, from, dx, qsum);
            }
            for (long h = 0; h < K; h++, x += C, dx += C) {
                from = dk + ((b * K + h) * T + t) * C;
                BY_WIDTH(turn_back, x, kw, cos, sin, from, dx, ksum);
            }
            for (long h = 0; h < K; h++, dx += C) memcpy(dx, dv + ((b * K + h) * T + t) * C, C * sizeof(float));
        }
    })
    for (int part = 0; qw && part < threads; part++)
        for (long i = 0; i < C; i++) dqw[i] += parts[part * 2 * C + i], dkw[i] += parts[(part * 2 + 1) * C + i];
    free(parts);
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
        else if (R == 2) tile(2, a, a_row, a_column, b + j, b_row, c + j, c_row, depth, add);
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

// Keys are padded to a multiple of this; the caller allocates probabilities [B, H, T, whole(T)].
long attention_padding(void) { return COLUMNS; }

// q [B, H, T, C], k and v [B, K, T, C] -> out [B, T, H, C]. mask [T, T] with batch stride; null: causal, and then only
// the tiles on and below the diagonal are computed (or read on the way back).
void attention_forward(const float* q, const float* k, const float* v, const uint8_t* mask, long stride, float* probs,
                       float* out, long B, long T, long H, long K, long C, float scale, int threads) {
    long Tp = whole(T), Cp = whole(C);
    EACH(for (long bh = 0; bh < B * H; bh++) {
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
    })
}

void attention_backward(const float* q, const float* k, const float* v, const float* probs, const float* dout,
                        int causal, float* dq, float* dk, float* dv, long B, long T, long H, long K, long C,
                        float scale, int threads) {
    long Tp = whole(T), Cp = whole(C), G = H / K;
    EACH(for (long kv = 0; kv < B * K; kv++) {
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
    })
}

// sums[0] cross-entropy and sums[1] squared log-normalizers of rows with a target, times the row's weight (null: 1);
// powers (which may lie where the logits do) and norms are for the way back
void entropy_forward(const float* logits, const int64_t* targets, const float* weights, long ignore, float* powers,
                     float* norms, double* sums, long rows, long V, int threads) {
    double* parts = calloc(threads * 2, sizeof(double));
    EACH(for (int part = 0; part < threads; part++)
        for (long row = rows * part / threads; row < rows * (part + 1) / threads; row++) {
            if (targets[row] == ignore) continue;
            const float* x = logits + row * V;
            float right = x[targets[row]], top = largest(x, V), sum = powers_of(x, powers + row * V, V, 1.0f, top);
            float norm = top + __builtin_logf(sum);
            norms[row * 2] = sum;
            norms[row * 2 + 1] = norm;
            double weight = weights ? weights[row] : 1.0f;
            parts[part * 2] += weight * (norm - right);
            parts[part * 2 + 1] += weight * norm * norm;
        })
    for (int part = 0; part < threads; part++) {
        sums[0] += parts[part * 2];
        sums[1] += parts[part * 2 + 1];
    }
    free(parts);
}

void entropy_backward(const float* powers, const float* norms, const int64_t* targets, const float* weights,
                      long ignore, float g, float gz, float* d, long rows, long V, int threads) {
    EACH(for (long row = 0; row < rows; row++) {
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
    })
}

// dw, which must come zeroed, gets row i of dy at tokens[i]
void embedding_backward(const int64_t* tokens, const float* dy, float* dw, long rows, long D) {
    for (long row = 0; row < rows; row++) {
        float* to = dw + tokens[row] * D;
        const float* from = dy + row * D;
        SIMD for (long i = 0; i < D; i++) to[i] += from[i];
    }
}
