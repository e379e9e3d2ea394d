/* One pass of a dense decoder over rows of tokens, each a (slot, position) of its own: prompts and single steps alike.
 *
 * Why C: at these sizes a step of torch is a hundred small operations whose dispatch costs more than their work.
 * Every output number is summed in an order that depends on the model alone, never on what else is in the batch, so a
 * sequence gets the same bits whatever runs beside it and however its prompt was cut up.
 *
 * Names: n rows, d model width, h query heads, k key heads, c head dimension, f feed-forward width, v vocabulary,
 * s positions. Matrices are packed in panels of PANEL outputs: packed[panel][input][output in panel].
 * Keys lie in blocks of BLOCK positions, [block][c][position in block], so that a score needs no horizontal sum;
 * values lie as [position][c].
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define PANEL (2 * LANES)
#define BLOCK 16
#define CHUNK 96
#define PARTS (BLOCK / LANES)

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
#define INLINE static inline __attribute__((always_inline))

typedef struct {
  int32_t vocab, d, layers, heads, kv_heads, c, ff, slots, capacity, window, context;
  float eps, attention_cap, logit_cap;
  const float *embedding, *cos, *sin, *last_norm, *unembedding;
  /* per layer; the two head norms and the bias are null where the model has none */
  const float **attention_norm, **qkv, **qkv_bias, **q_norm, **k_norm, **out, **mlp_norm, **gate_up, **down;
  float *keys, *values; /* [layers][slots][kv_heads][capacity * c] */
} Model;

INLINE vec splat(float x) { return x - (vec){}; }
INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec x) { *(vec *)p = x; }
INLINE vec larger(vec a, vec b) {
  ivec m = a > b;
  return (vec)(((ivec)a & m) | ((ivec)b & ~m));
}

INLINE void fetch(const float *p, int64_t ahead) { __builtin_prefetch((const char *)p + ahead, 0, 2); }

/* e^x to 2 ulp, x held within [-87, 88]: x = n ln 2 + r, a polynomial for e^r (Cephes), the exponent set by hand. */
INLINE vec exponential(vec x) {
  x = -larger(-larger(x, splat(-87.0f)), splat(-88.0f));
  vec n = (x * splat(1.44269504f) + splat(12582912.0f)) - splat(12582912.0f);
  vec r = x - n * splat(0.693359375f) - n * splat(-2.12194440e-4f);
  vec y = splat(1.9875691500e-4f);
  y = y * r + splat(1.3981999507e-3f);
  y = y * r + splat(8.3334519073e-3f);
  y = y * r + splat(4.1665795894e-2f);
  y = y * r + splat(1.6666665459e-1f);
  y = y * r + splat(5.0000001201e-1f);
  y = y * r * r + r + splat(1.0f);
  ivec bits = (__builtin_convertvector(n, ivec) + 127) << 23;
  return y * (vec)bits;
}

INLINE vec capped(vec x, float cap) {
  vec e = exponential(splat(2.0f / cap) * x);
  return splat(cap) * (splat(1.0f) - splat(2.0f) / (e + splat(1.0f)));
}

void lifespan_sizes(int32_t *sizes) {
  sizes[0] = PANEL;
  sizes[1] = BLOCK;
  sizes[2] = sizeof(Model);
}

/* w[outputs][inputs] into panels; the last one is filled up with zeros. */
void lifespan_pack(const float *w, int64_t outputs, int64_t inputs, float *packed) {
  for (int64_t first = 0; first < outputs; first += PANEL)
    for (int64_t i = 0; i < inputs; i++)
      for (int64_t o = first; o < first + PANEL; o++) *packed++ = o < outputs ? w[o * inputs + i] : 0.0f;
}

/* y[rows][panels * PANEL] (+)= x[rows][k] times `panels` panels, accumulators in registers. */
INLINE void tile(const int rows, const int panels, const float *x, const float *w, float *y, int k, int ldx, int ldy,
                 const int add, int width) {
  vec acc[6][12];
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 12
    for (int p = 0; p < 2 * panels; p++) acc[r][p] = (vec){};
  for (int i = 0; i < k; i++) {
    vec b[12];
#pragma GCC unroll 12
    for (int p = 0; p < 2 * panels; p++) b[p] = load(w + (int64_t)(p / 2) * k * PANEL + i * PANEL + (p % 2) * LANES);
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
      vec a = splat(x[r * ldx + i]);
#pragma GCC unroll 12
      for (int p = 0; p < 2 * panels; p++) acc[r][p] += a * b[p];
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++) {
    float edge[12 * LANES], *to = y + (int64_t)r * ldy;
    if (width == panels * PANEL) {
#pragma GCC unroll 12
      for (int p = 0; p < 2 * panels; p++) {
        if (add) acc[r][p] += load(to + p * LANES);
        store(to + p * LANES, acc[r][p]);
      }
    } else {
#pragma GCC unroll 12
      for (int p = 0; p < 2 * panels; p++) store(edge + p * LANES, acc[r][p]);
      for (int o = 0; o < width; o++) to[o] = add ? to[o] + edge[o] : edge[o];
    }
  }
}

INLINE void row_block(const int rows, const int panels, const float *x, const float *w, float *y, int k, int m,
                      int ldx, int ldy, const int add) {
  int step = panels * PANEL, first = 0;
  for (; first + step <= m; first += step)
    tile(rows, panels, x, w + (int64_t)first * k, y + first, k, ldx, ldy, add, step);
  for (; first < m; first += PANEL)
    tile(rows, 1, x, w + (int64_t)first * k, y + first, k, ldx, ldy, add, m - first < PANEL ? m - first : PANEL);
}

/* y[n][m] (+)= x[n][k] w. A sum runs over k in order, whichever tile computes it. */
INLINE void product(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy, const int add) {
  int whole = n / 6 * 6;
  for (int first = 0; whole && first < m; first += PANEL)
    for (int r = 0; r < whole; r += 6)
      tile(6, 1, x + (int64_t)r * ldx, w + (int64_t)first * k, y + (int64_t)r * ldy + first, k, ldx, ldy, add,
           m - first < PANEL ? m - first : PANEL);
  x += (int64_t)whole * ldx;
  y += (int64_t)whole * ldy;
  switch (n - whole) {
    case 1: row_block(1, 6, x, w, y, k, m, ldx, ldy, add); break;
    case 2: row_block(2, 3, x, w, y, k, m, ldx, ldy, add); break;
    case 3: row_block(3, 2, x, w, y, k, m, ldx, ldy, add); break;
    case 4: row_block(4, 1, x, w, y, k, m, ldx, ldy, add); break;
    case 5: row_block(5, 1, x, w, y, k, m, ldx, ldy, add); break;
  }
}
static void assign(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy) {
  product(x, w, y, n, k, m, ldx, ldy, 0);
}
static void accumulate(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy) {
  product(x, w, y, n, k, m, ldx, ldy, 1);
}

static void rms_norm(const float *x, const float *weight, float *y, int width, float eps) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < width; i++) sum += x[i] * x[i];
  float scale = 1.0f / sqrtf(sum / width + eps);
#pragma omp simd
  for (int i = 0; i < width; i++) y[i] = x[i] * scale * weight[i];
}

static void rotate(float *x, const float *cos, const float *sin, int half) {
#pragma omp simd
  for (int i = 0; i < half; i++) {
    float a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

/* `ahead`: bytes from these keys to those of the next call, which are fetched on the way: the cache lies in memory, and
 * the processor does not see by itself where the next sequence's part begins. */
INLINE void score_blocks(const int blocks, const float *q, const float *keys, float *scores, int c, int64_t ahead) {
  vec acc[4 * PARTS];
#pragma GCC unroll 16
  for (int p = 0; p < blocks * PARTS; p++) acc[p] = (vec){};
  for (int i = 0; i < c; i++) {
    vec a = splat(q[i]);
#pragma GCC unroll 16
    for (int p = 0; p < blocks * PARTS; p++)
      acc[p] += a * load(keys + (p / PARTS) * BLOCK * c + i * BLOCK + (p % PARTS) * LANES);
#pragma GCC unroll 16
    for (int b = 0; b < blocks; b++) fetch(keys + b * BLOCK * c + i * BLOCK, ahead);
  }
#pragma GCC unroll 16
  for (int p = 0; p < blocks * PARTS; p++) store(scores + p * LANES, acc[p]);
}

/* y[width] = sum over positions of weight[s] * values[s][...]; four sums a lane, added in a fixed order. */
INLINE void mix(const int vecs, const float *weights, const float *values, float *y, int from, int to, int c,
                int64_t ahead) {
  vec acc[2][4];
#pragma GCC unroll 4
  for (int p = 0; p < vecs; p++) acc[0][p] = acc[1][p] = (vec){};
  int s = from;
  for (; s + 1 < to; s += 2) {
    vec a = splat(weights[s]), b = splat(weights[s + 1]);
#pragma GCC unroll 4
    for (int p = 0; p < vecs; p++) {
      acc[0][p] += a * load(values + (int64_t)s * c + p * LANES);
      acc[1][p] += b * load(values + (int64_t)(s + 1) * c + p * LANES);
    }
#pragma GCC unroll 16
    for (int p = 0; p < vecs * LANES; p += 16) {
      fetch(values + (int64_t)s * c + p, ahead);
      fetch(values + (int64_t)(s + 1) * c + p, ahead);
    }
  }
  if (s < to) {
    vec a = splat(weights[s]);
#pragma GCC unroll 4
    for (int p = 0; p < vecs; p++) acc[0][p] += a * load(values + (int64_t)s * c + p * LANES);
  }
#pragma GCC unroll 4
  for (int p = 0; p < vecs; p++) store(y + p * LANES, acc[0][p] + acc[1][p]);
}

/* Softmax attention of one query to positions [from, to) of one key head. `scores` has room for them, in blocks. */
static void attend(const float *q, const float *keys, const float *values, float *scores, float *y, int from, int to,
                   int c, float cap, int64_t ahead) {
  int block = from / BLOCK, blocks = (to + BLOCK - 1) / BLOCK, start = block * BLOCK, end = blocks * BLOCK;
  for (; block + 4 <= blocks; block += 4)
    score_blocks(4, q, keys + (int64_t)block * BLOCK * c, scores + block * BLOCK, c, ahead);
  keys += (int64_t)block * BLOCK * c;
  switch (blocks - block) {
    case 1: score_blocks(1, q, keys, scores + block * BLOCK, c, ahead); break;
    case 2: score_blocks(2, q, keys, scores + block * BLOCK, c, ahead); break;
    case 3: score_blocks(3, q, keys, scores + block * BLOCK, c, ahead); break;
  }
  if (cap > 0)
    for (int s = start; s < end; s += LANES) store(scores + s, capped(load(scores + s), cap));
  for (int s = start; s < from; s++) scores[s] = -INFINITY;
  for (int s = to; s < end; s++) scores[s] = -INFINITY; /* slots that hold nothing yet */
  vec top = splat(-INFINITY), sum = (vec){};
  for (int s = start; s < end; s += LANES) top = larger(load(scores + s), top);
  float highest = top[0], total = 0.0f;
  for (int i = 1; i < LANES; i++) highest = top[i] > highest ? top[i] : highest;
  for (int s = start; s < end; s += LANES) {
    vec e = exponential(load(scores + s) - splat(highest));
    store(scores + s, e);
    sum += e;
  }
  for (int i = 0; i < LANES; i++) total += sum[i];
  int done = 0;
  for (; done + 4 * LANES <= c; done += 4 * LANES) mix(4, scores, values + done, y + done, from, to, c, ahead);
  for (; done + LANES <= c; done += LANES) mix(1, scores, values + done, y + done, from, to, c, ahead);
  for (; done < c; done++) {
    float one = 0.0f;
    for (int s = from; s < to; s++) one += scores[s] * values[(int64_t)s * c + done];
    y[done] = one;
  }
  float scale = 1.0f / total;
  for (int i = 0; i < c; i++) y[i] *= scale;
}

/* hidden[i] = silu(gate) * up, where a row of both is [gate | up]. */
static void gated(const float *both, float *hidden, int f) {
  int i = 0;
  for (; i + LANES <= f; i += LANES) {
    vec gate = load(both + i);
    store(hidden + i, gate / (splat(1.0f) + exponential(-gate)) * load(both + f + i));
  }
  for (; i < f; i++) hidden[i] = both[i] / (1.0f + expf(-both[i])) * both[f + i];
}

/* Widths of a row's two buffers: what is read by the next product, and what it writes. */
static int64_t normed_width(const Model *m) {
  int64_t most = m->d > m->heads * m->c ? m->d : m->heads * m->c;
  return most > m->ff ? most : m->ff;
}
static int64_t work_width(const Model *m) {
  int64_t qkv = (int64_t)(m->heads + 2 * m->kv_heads) * m->c, both = 2 * (int64_t)m->ff;
  return qkv > both ? qkv : both;
}

/* Floats of workspace that a pass needs. */
int64_t lifespan_workspace(const Model *m) {
  return CHUNK * (m->d + normed_width(m) + work_width(m)) + m->capacity + BLOCK;
}

/* Where the keys and values of a layer, slot and head begin. */
INLINE int64_t begin(const Model *m, int64_t layer, int slot, int head) {
  return ((layer * m->slots + slot) * m->kv_heads + head) * m->capacity * m->c;
}

/* Norms, rotation and scale of a row's queries and keys; keys and values go to their places in the cache. */
static void place(const Model *m, int layer, float *row, int slot, int position) {
  const int c = m->c, h = m->heads, k = m->kv_heads, half = c / 2;
  const float *cos = m->cos + (int64_t)position * half, *sin = m->sin + (int64_t)position * half;
  const float scale = 1.0f / sqrtf((float)c);
  if (m->qkv_bias[layer])
    for (int i = 0; i < (h + 2 * k) * c; i++) row[i] += m->qkv_bias[layer][i];
  for (int head = 0; head < h + k; head++) {
    const float *norm = head < h ? m->q_norm[layer] : m->k_norm[layer];
    if (norm) rms_norm(row + head * c, norm, row + head * c, c, m->eps);
    rotate(row + head * c, cos, sin, half);
  }
  for (int i = 0; i < h * c; i++) row[i] *= scale;
  for (int head = 0; head < k; head++) {
    const int64_t start = begin(m, layer, slot, head);
    float *key = m->keys + start + (int64_t)(position / BLOCK) * BLOCK * c + position % BLOCK;
    for (int i = 0; i < c; i++) key[i * BLOCK] = row[(h + head) * c + i];
    memcpy(m->values + start + (int64_t)position * c, row + (h + k + head) * c, c * sizeof(float));
  }
}

/* Pass `n` rows through the model: row r is tokens[r] at positions[r] of slots[r]; rows of one slot come in the order of
 * their positions. Keys and values are written to the cache; the logits of the `wanted` rows (ascending) go to
 * logits[][vocab]. A few rows at a time, so that they stay in the processor's nearest caches. */
void lifespan_forward(const Model *m, int32_t n, const int32_t *tokens, const int32_t *slots, const int32_t *positions,
                      int32_t wanted, const int32_t *rows, float *logits, float *workspace) {
  const int d = m->d, c = m->c, h = m->heads, k = m->kv_heads, f = m->ff, wide = (int)work_width(m);
  float *x = workspace, *normed = x + CHUNK * d, *work = normed + CHUNK * normed_width(m);
  float *scores = work + (int64_t)CHUNK * wide;

  for (int first = 0, done = 0; first < n; first += CHUNK) {
    const int count = n - first < CHUNK ? n - first : CHUNK;
    for (int r = 0; r < count; r++) memcpy(x + r * d, m->embedding + (int64_t)tokens[first + r] * d, d * sizeof(float));
    for (int layer = 0; layer < m->layers; layer++) {
      for (int r = 0; r < count; r++) rms_norm(x + r * d, m->attention_norm[layer], normed + r * d, d, m->eps);
      assign(normed, m->qkv[layer], work, count, d, (h + 2 * k) * c, d, wide);
      for (int r = 0; r < count; r++) place(m, layer, work + r * wide, slots[first + r], positions[first + r]);
      for (int r = 0; r < count; r++) {
        const int to = positions[first + r] + 1, from = m->window && to > m->window ? to - m->window : 0;
        for (int head = 0; head < h; head++) {
          /* The next head's keys lie behind these, or the next row's wherever its slot is. */
          const int next = r + 1 < count && head + 1 == h;
          const int64_t start = begin(m, layer, slots[first + r], head / (h / k));
          const int64_t then = begin(m, layer, slots[first + r + next], next ? 0 : (head + 1 == h ? head : head + 1) / (h / k));
          attend(work + r * wide + head * c, m->keys + start, m->values + start, scores, normed + (r * h + head) * c,
                 from, to, c, m->attention_cap, (then - start) * (int64_t)sizeof(float));
        }
      }
      accumulate(normed, m->out[layer], x, count, h * c, d, h * c, d);
      for (int r = 0; r < count; r++) rms_norm(x + r * d, m->mlp_norm[layer], normed + r * d, d, m->eps);
      assign(normed, m->gate_up[layer], work, count, d, 2 * f, d, wide);
      for (int r = 0; r < count; r++) gated(work + r * wide, normed + r * f, f);
      accumulate(normed, m->down[layer], x, count, f, d, f, d);
    }
    int ready = 0;
    for (; done + ready < wanted && rows[done + ready] < first + count; ready++)
      rms_norm(x + (rows[done + ready] - first) * d, m->last_norm, normed + ready * d, d, m->eps);
    assign(normed, m->unembedding, logits + (int64_t)done * m->vocab, ready, d, m->vocab, d, m->vocab);
    done += ready;
  }
  if (m->logit_cap > 0)
    for (int64_t i = 0; i < (int64_t)wanted * m->vocab; i++) logits[i] = m->logit_cap * tanhf(logits[i] / m->logit_cap);
}

/* A token for each row of logits and its log-probability: the most probable one at temperature 0 (log-probabilities at
 * 1), else the first whose cumulative probability at that temperature passes uniform[r]. `work` has room for a row. */
void lifespan_choose(const float *logits, int32_t n, int32_t vocab, float temperature, const double *uniform,
                     int32_t *tokens, float *log_probs, float *work) {
  const float inverse = temperature > 0 ? 1.0f / temperature : 1.0f;
  for (int r = 0; r < n; r++) {
    const float *row = logits + (int64_t)r * vocab;
    float highest = row[0];
    double total = 0.0, passed = 0.0;
    int token = 0, i = 0;
#pragma omp simd reduction(max : highest)
    for (int t = 0; t < vocab; t++) highest = row[t] > highest ? row[t] : highest;
    for (; i + LANES <= vocab; i += LANES) store(work + i, exponential((load(row + i) - splat(highest)) * splat(inverse)));
    for (; i < vocab; i++) work[i] = expf((row[i] - highest) * inverse);
#pragma omp simd reduction(+ : total)
    for (int t = 0; t < vocab; t++) total += work[t];
    if (temperature > 0) {
      const double threshold = uniform[r] * total;
      for (int t = 0; t < vocab && passed <= threshold; t++) {
        passed += work[t];
        token = work[t] > 0.0f ? t : token;
      }
    } else
      while (token + 1 < vocab && row[token] < highest) token++;
    tokens[r] = token;
    log_probs[r] = (float)((double)(row[token] - highest) * inverse - log(total));
  }
}

/* The first `length` positions of a slot's keys and values, copied to another slot. */
void lifespan_copy(const Model *m, int32_t from, int32_t to, int32_t length) {
  const int64_t head_size = (int64_t)m->capacity * m->c;
  const int64_t blocks = (int64_t)((length + BLOCK - 1) / BLOCK) * BLOCK * m->c;
  for (int64_t layer = 0; layer < m->layers; layer++)
    for (int64_t head = 0; head < m->kv_heads; head++) {
      const int64_t base = layer * m->slots * m->kv_heads + head;
      const int64_t source = (base + (int64_t)from * m->kv_heads) * head_size;
      const int64_t target = (base + (int64_t)to * m->kv_heads) * head_size;
      memcpy(m->keys + target, m->keys + source, blocks * sizeof(float));
      memcpy(m->values + target, m->values + source, (int64_t)length * m->c * sizeof(float));
    }
}
