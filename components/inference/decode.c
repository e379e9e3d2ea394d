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

/* Over the lanes, halves by halves. */
INLINE float sum_of(vec x) {
  float t[LANES];
  store(t, x);
  for (int w = LANES / 2; w; w /= 2)
    for (int i = 0; i < w; i++) t[i] += t[i + w];
  return t[0];
}
INLINE float highest_of(vec x) {
  float t[LANES];
  store(t, x);
  for (int w = LANES / 2; w; w /= 2)
    for (int i = 0; i < w; i++) t[i] = t[i] > t[i + w] ? t[i] : t[i + w];
  return t[0];
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

/* w[outputs][inputs] into panels; the last one is filled up with zeros. `gated`: w is [gate | up], and a panel holds
 * LANES outputs of the one and the same LANES of the other, so that `tile` has both at hand. */
void lifespan_pack(const float *w, int64_t outputs, int64_t inputs, int32_t gated, float *packed) {
  const int64_t width = gated ? LANES : PANEL, end = gated ? outputs / 2 : outputs;
  const float *from[PANEL];
  for (int64_t first = 0; first < end; first += width) {
    for (int o = 0; o < PANEL; o++) {
      const int64_t at = first + o % width;
      from[o] = at < end ? w + (o < width ? at : end + at) * inputs : 0;
    }
    for (int64_t i = 0; i < inputs; i++)
      for (int o = 0; o < PANEL; o++) *packed++ = from[o] ? from[o][i] : 0.0f;
  }
}

/* What becomes of a product: it is written, added to what is there, or its gate and up halves become silu(gate) * up. */
enum { ASSIGN, ADD, GATE };

/* x[rows][k] times `panels` panels, accumulators in registers, to y[rows][width]. */
INLINE void tile(const int rows, const int panels, const int kind, const float *x, const float *w, float *y, int k,
                 int ldx, int ldy, int width) {
  vec acc[6][12];
  const int parts = kind == GATE ? panels : 2 * panels; /* vectors of a row of y */
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
    if (kind == GATE)
#pragma GCC unroll 12
      for (int p = 0; p < panels; p++)
        acc[r][p] = acc[r][2 * p] / (splat(1.0f) + exponential(-acc[r][2 * p])) * acc[r][2 * p + 1];
    if (width == parts * LANES) {
#pragma GCC unroll 12
      for (int p = 0; p < parts; p++) {
        if (kind == ADD) acc[r][p] += load(to + p * LANES);
        store(to + p * LANES, acc[r][p]);
      }
    } else {
#pragma GCC unroll 12
      for (int p = 0; p < parts; p++) store(edge + p * LANES, acc[r][p]);
      for (int o = 0; o < width; o++) to[o] = kind == ADD ? to[o] + edge[o] : edge[o];
    }
  }
}

/* y[rows][m] = x[rows][k] w for a few rows: as many panels at once as keep the multipliers busy. */
INLINE void few(const int rows, const int panels, const int kind, const float *x, const float *w, float *y, int k,
                int m, int ldx, int ldy) {
  const int one = kind == GATE ? LANES : PANEL, step = panels * one;
  int first = 0;
  for (; first + step <= m; first += step)
    tile(rows, panels, kind, x, w + (int64_t)first / one * PANEL * k, y + first, k, ldx, ldy, step);
  for (; first < m; first += one)
    tile(rows, 1, kind, x, w + (int64_t)first / one * PANEL * k, y + first, k, ldx, ldy, m - first < one ? m - first : one);
}

/* y[n][m] from x[n][k] w. A sum runs over k in order, whichever tile computes it. A panel is used for all rows while it
 * lies in the nearest cache. */
INLINE void product(const int kind, const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy) {
  const int one = kind == GATE ? LANES : PANEL;
  switch (n) {
    case 0: return;
    case 1: few(1, 6, kind, x, w, y, k, m, ldx, ldy); return;
    case 2: few(2, 3, kind, x, w, y, k, m, ldx, ldy); return;
    case 3: few(3, 2, kind, x, w, y, k, m, ldx, ldy); return;
  }
  for (int first = 0; first < m; first += one, w += (int64_t)PANEL * k) {
    const int width = m - first < one ? m - first : one;
    const float *from = x;
    float *to = y + first;
    int left = n;
    for (; left >= 6; left -= 6, from += 6 * (int64_t)ldx, to += 6 * (int64_t)ldy)
      tile(6, 1, kind, from, w, to, k, ldx, ldy, width);
    switch (left) {
      case 1: tile(1, 1, kind, from, w, to, k, ldx, ldy, width); break;
      case 2: tile(2, 1, kind, from, w, to, k, ldx, ldy, width); break;
      case 3: tile(3, 1, kind, from, w, to, k, ldx, ldy, width); break;
      case 4: tile(4, 1, kind, from, w, to, k, ldx, ldy, width); break;
      case 5: tile(5, 1, kind, from, w, to, k, ldx, ldy, width); break;
    }
  }
}
static void assign(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy) {
  product(ASSIGN, x, w, y, n, k, m, ldx, ldy);
}
static void accumulate(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy) {
  product(ADD, x, w, y, n, k, m, ldx, ldy);
}
static void gated(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy) {
  product(GATE, x, w, y, n, k, m, ldx, ldy);
}

/* 1 / sqrt(mean square + eps) */
INLINE float inverse_rms(const float *x, int width, float eps) {
  vec sums[4] = {};
  float sum = 0.0f;
  int i = 0;
  for (; i + 4 * LANES <= width; i += 4 * LANES)
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) sums[p] += load(x + i + p * LANES) * load(x + i + p * LANES);
  for (; i + LANES <= width; i += LANES) sums[0] += load(x + i) * load(x + i);
  for (; i < width; i++) sum += x[i] * x[i];
  sums[0] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return 1.0f / sqrtf((sum + sum_of(sums[0])) / width + eps);
}

INLINE void rms_norm(const float *x, const float *weight, float *y, int width, float eps) {
  const float scale = inverse_rms(x, width, eps);
  int i = 0;
  for (; i + LANES <= width; i += LANES) store(y + i, load(x + i) * splat(scale) * load(weight + i));
  for (; i < width; i++) y[i] = x[i] * scale * weight[i];
}

/* A head of a query or key: its norm where there is one (`weight`), the rotation, and a factor. */
INLINE void turn(float *x, const float *weight, const float *cos, const float *sin, int c, float eps, float factor) {
  const int half = c / 2;
  int i = 0;
  if (weight) rms_norm(x, weight, x, c, eps);
  for (; i + LANES <= half; i += LANES) {
    vec a = load(x + i) * splat(factor), b = load(x + i + half) * splat(factor), u = load(cos + i), v = load(sin + i);
    store(x + i, a * u - b * v);
    store(x + i + half, b * u + a * v);
  }
  for (; i < half; i++) {
    const float a = x[i] * factor, b = x[i + half] * factor;
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
  const float highest = highest_of(top);
  for (int s = start; s < end; s += LANES) {
    vec e = exponential(load(scores + s) - splat(highest));
    store(scores + s, e);
    sum += e;
  }
  int done = 0;
  for (; done + 4 * LANES <= c; done += 4 * LANES) mix(4, scores, values + done, y + done, from, to, c, ahead);
  for (; done + LANES <= c; done += LANES) mix(1, scores, values + done, y + done, from, to, c, ahead);
  for (; done < c; done++) {
    float one = 0.0f;
    for (int s = from; s < to; s++) one += scores[s] * values[(int64_t)s * c + done];
    y[done] = one;
  }
  const float scale = 1.0f / sum_of(sum);
  for (int i = 0; i < c; i++) y[i] *= scale;
}

/* Widths of a row's two buffers: what is read by the next product, and what it writes. */
static int64_t normed_width(const Model *m) { return m->d > m->heads * m->c ? m->d : m->heads * m->c; }
static int64_t work_width(const Model *m) {
  const int64_t qkv = (int64_t)(m->heads + 2 * m->kv_heads) * m->c;
  return qkv > m->ff ? qkv : m->ff;
}

/* Floats of workspace that a pass needs. */
int64_t lifespan_workspace(const Model *m) {
  return CHUNK * (m->d + normed_width(m) + work_width(m)) + m->capacity + BLOCK + (CHUNK + 2) * (int64_t)m->vocab;
}

/* Where the keys and values of a layer, slot and head begin. */
INLINE int64_t begin(const Model *m, int64_t layer, int slot, int head) {
  return ((layer * m->slots + slot) * m->kv_heads + head) * m->capacity * m->c;
}

/* Norms, rotation and scale of a row's queries and keys; keys and values go to their places in the cache. */
static void place(const Model *m, int layer, float *row, int slot, int position) {
  const int c = m->c, h = m->heads, k = m->kv_heads;
  const float *cos = m->cos + (int64_t)position * (c / 2), *sin = m->sin + (int64_t)position * (c / 2);
  const float scale = 1.0f / sqrtf((float)c);
  if (m->qkv_bias[layer])
    for (int i = 0; i < (h + 2 * k) * c; i++) row[i] += m->qkv_bias[layer][i];
  for (int head = 0; head < h; head++) turn(row + head * c, m->q_norm[layer], cos, sin, c, m->eps, scale);
  for (int head = h; head < h + k; head++) turn(row + head * c, m->k_norm[layer], cos, sin, c, m->eps, 1.0f);
  for (int head = 0; head < k; head++) {
    const int64_t start = begin(m, layer, slot, head);
    float *key = m->keys + start + (int64_t)(position / BLOCK) * BLOCK * c + position % BLOCK;
    for (int i = 0; i < c; i++) key[i * BLOCK] = row[(h + head) * c + i];
    memcpy(m->values + start + (int64_t)position * c, row + (h + k + head) * c, c * sizeof(float));
  }
}

/* Up to CHUNK rows through all layers, so few that they stay in the processor's own caches. The logits of the `wanted`
 * rows go to logits[][vocab]; of the others the last layer computes keys and values alone. */
static void chunk(const Model *m, int n, const int32_t *tokens, const int32_t *slots, const int32_t *positions,
                  int wanted, const int32_t *rows, int offset, float *logits, float *x) {
  const int d = m->d, c = m->c, h = m->heads, k = m->kv_heads, f = m->ff, wide = (int)work_width(m);
  float *normed = x + CHUNK * d, *work = normed + CHUNK * normed_width(m), *scores = work + (int64_t)CHUNK * wide;
  int count = n;
  for (int r = 0; r < n; r++) memcpy(x + r * d, m->embedding + (int64_t)tokens[r] * d, d * sizeof(float));
  for (int layer = 0; layer < m->layers; layer++) {
    const int last = layer + 1 == m->layers;
    for (int r = 0; r < n; r++) rms_norm(x + r * d, m->attention_norm[layer], normed + r * d, d, m->eps);
    assign(normed, m->qkv[layer], work, n, d, (h + 2 * k) * c, d, wide);
    count = 0;
    for (int r = 0; r < n; r++) {
      const int to = positions[r] + 1, from = m->window && to > m->window ? to - m->window : 0;
      const int64_t ahead = r + 1 < n ? begin(m, layer, slots[r + 1], 0) - begin(m, layer, slots[r], 0) : 0;
      place(m, layer, work + r * wide, slots[r], positions[r]);
      if (last && (count == wanted || rows[count] - offset != r)) continue;
      for (int head = 0; head < h; head++) {
        const int64_t start = begin(m, layer, slots[r], head / (h / k));
        attend(work + r * wide + head * c, m->keys + start, m->values + start, scores, normed + (count * h + head) * c,
               from, to, c, m->attention_cap, ahead * (int64_t)sizeof(float));
      }
      if (count != r) memcpy(x + count * d, x + r * d, d * sizeof(float));
      count++;
    }
    accumulate(normed, m->out[layer], x, count, h * c, d, h * c, d);
    for (int r = 0; r < count; r++) rms_norm(x + r * d, m->mlp_norm[layer], normed + r * d, d, m->eps);
    gated(normed, m->gate_up[layer], work, count, d, f, d, wide);
    accumulate(work, m->down[layer], x, count, f, d, wide, d);
  }
  for (int r = 0; r < count; r++) rms_norm(x + r * d, m->last_norm, normed + r * d, d, m->eps);
  assign(normed, m->unembedding, logits, count, d, m->vocab, d, m->vocab);
  if (m->logit_cap > 0)
    for (int64_t i = 0; i < (int64_t)count * m->vocab; i++) logits[i] = m->logit_cap * tanhf(logits[i] / m->logit_cap);
}

/* Pass `n` rows through the model: row r is tokens[r] at positions[r] of slots[r]; rows of one slot come in the order of
 * their positions. Keys and values are written to the cache; the logits of the `wanted` rows (ascending) go to
 * logits[][vocab]. */
void lifespan_forward(const Model *m, int32_t n, const int32_t *tokens, const int32_t *slots, const int32_t *positions,
                      int32_t wanted, const int32_t *rows, float *logits, float *workspace) {
  for (int first = 0, done = 0; first < n; first += CHUNK) {
    const int count = n - first < CHUNK ? n - first : CHUNK;
    int ready = 0;
    while (done + ready < wanted && rows[done + ready] < first + count) ready++;
    chunk(m, count, tokens + first, slots + first, positions + first, ready, rows + done, first,
          logits + (int64_t)done * m->vocab, workspace);
    done += ready;
  }
}

/* `sampling.SamplingParams`, as far as it is about a single token. */
typedef struct {
  int32_t top_k, num_bans, raw;
  float temperature, top_p, min_p;
  const int32_t *bans;
} Way;

/* weights[t] = e^((row[t] - the highest) / temperature), and their sum. */
static double weigh(const float *row, int vocab, float inverse, float *weights, float *highest) {
  float top = row[0];
  double total = 0.0;
  int i = 0;
#pragma omp simd reduction(max : top)
  for (int t = 0; t < vocab; t++) top = row[t] > top ? row[t] : top;
  for (; i + LANES <= vocab; i += LANES) store(weights + i, exponential((load(row + i) - splat(top)) * splat(inverse)));
  for (; i < vocab; i++) weights[i] = expf((row[i] - top) * inverse);
#pragma omp simd reduction(+ : total)
  for (int t = 0; t < vocab; t++) total += weights[t];
  *highest = top;
  return total;
}

/* The least weight that is kept, where a token is kept if those that weigh more are fewer than `limit` (`counted`), or
 * together weigh less than that. A bisection over the bits of numbers from 0 to 1: no sorting, equal weights alike. */
static float least_kept(const float *weights, int vocab, int counted, double limit) {
  uint32_t low = 0, high = 0x3F800000;
  float x;
  while (low < high) {
    const uint32_t middle = (low + high) / 2;
    double more = 0.0;
    memcpy(&x, &middle, sizeof x);
#pragma omp simd reduction(+ : more)
    for (int t = 0; t < vocab; t++) more += weights[t] > x ? (counted ? 1.0f : weights[t]) : 0.0f;
    if (more < limit) high = middle;
    else low = middle + 1;
  }
  memcpy(&x, &high, sizeof x);
  return x;
}

/* Weights below `least` become 0; the sum of the others. */
static double cut(float *weights, int vocab, float least) {
  double total = 0.0;
#pragma omp simd reduction(+ : total)
  for (int t = 0; t < vocab; t++) total += weights[t] = weights[t] < least ? 0.0f : weights[t];
  return total;
}

/* `sampling.choose` for a row of logits: the most probable token at temperature 0, else the first whose cumulative
 * probability passes `uniform`. `draw` has room for two rows. */
static int choose(const Way *way, const float *logits, int vocab, double uniform, float *draw, float *log_prob) {
  const float inverse = way->temperature > 0 ? 1.0f / way->temperature : 1.0f, *row = logits;
  float *weights = draw, *allowed = draw + vocab, highest;
  int token = 0;
  if (way->num_bans) {
    memcpy(allowed, logits, vocab * sizeof(float));
    for (int i = 0; i < way->num_bans; i++) allowed[way->bans[i]] = -INFINITY;
    row = allowed;
  }
  double total = weigh(row, vocab, inverse, weights, &highest), left = total, passed = 0.0;
  for (int i = 0; i < way->num_bans; i++) weights[way->bans[i]] = 0.0f;
  if (way->temperature > 0) {
    if (way->top_k > 0 && way->top_k < vocab) left = cut(weights, vocab, least_kept(weights, vocab, 1, way->top_k));
    if (way->top_p < 1) left = cut(weights, vocab, least_kept(weights, vocab, 0, way->top_p * left));
    if (way->min_p > 0) left = cut(weights, vocab, way->min_p);
    const double threshold = uniform * left;
    for (int t = 0; t < vocab && passed <= threshold; t++) {
      passed += weights[t];
      token = weights[t] > 0.0f ? t : token;
    }
  } else
    while (token + 1 < vocab && row[token] < highest) token++;
  if (way->raw && (way->num_bans || inverse != 1.0f)) {
    total = weigh(logits, vocab, 1.0f, weights, &highest);
    *log_prob = (float)((double)(logits[token] - highest) - log(total));
  } else
    *log_prob = (float)((double)(row[token] - highest) * inverse - log(total));
  return token;
}

/* `choose` for each of `n` rows. */
void lifespan_choose(const Way *way, const float *logits, int32_t n, int32_t vocab, const double *uniform,
                     int32_t *tokens, float *log_probs, float *draw) {
  for (int r = 0; r < n; r++)
    tokens[r] = choose(way, logits + (int64_t)r * vocab, vocab, uniform[r], draw, log_probs + r);
}

static uint64_t finalized(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/* `sampling.uniforms` of one token. */
static double uniform_of(uint64_t seed, uint64_t stream, uint64_t step) {
  const uint64_t state = finalized(seed * 0xD1342543DE82EF95u + stream * 0x9E3779B97F4A7C15u);
  return (double)(finalized(state + step * 0xBF58476D1CE4E5B9u) >> 11) * 0x1p-53;
}

/* Sequences by slot, as an engine keeps them: tokens and log_probs [slots][stride], of which `known` are there and
 * `done` have keys and values. All are drawn in one way. */
typedef struct {
  Way way;
  int32_t stride, num_stops;
  int32_t *tokens, *known, *done;
  float *log_probs;
  const int32_t *prompt, *limit, *stops;
  const uint64_t *seeds, *streams;
} Crowd;

/* Take the logits of a slot's last token: its next token. Whether that ended it. */
static int gain(const Model *m, const Crowd *g, int slot, const float *logits, float *draw) {
  const int known = g->known[slot]++;
  const double uniform =
      g->way.temperature > 0 ? uniform_of(g->seeds[slot], g->streams[slot], (uint64_t)(known - g->prompt[slot])) : 0.0;
  const int64_t at = (int64_t)slot * g->stride + known;
  const int token = choose(&g->way, logits, m->vocab, uniform, draw, g->log_probs + at);
  g->tokens[at] = token;
  int ended = known + 1 >= g->limit[slot];
  for (int s = 0; s < g->num_stops; s++) ended |= token == g->stops[s];
  return ended;
}

/* Let each of `n` slots read what it has not read yet and gain tokens, until it ends or has gained `steps`. At most
 * `width` go on together, step after step, so that their keys and values stay in the caches; who is through makes room
 * for the next. Threads that share `next` share the work. */
void lifespan_advance(const Model *m, const Crowd *g, int32_t n, const int32_t *slots, int32_t *next, int32_t width,
                      int32_t steps, float *workspace) {
  int32_t seated[CHUNK], left[CHUNK], tokens[CHUNK], row_slots[CHUNK], positions[CHUNK], rows[CHUNK], gaining[CHUNK];
  float *draw = workspace + lifespan_workspace(m) - 2 * m->vocab, *logits = draw - CHUNK * (int64_t)m->vocab;
  for (int count = 0;;) {
    for (int i; count < width && (i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < n; count++) {
      seated[count] = slots[i];
      left[count] = steps;
    }
    if (!count) return;
    /* A row for each that has read its prompt; those that have not share the room that this leaves. */
    int wanted = 0, total = 0, room = CHUNK - count, kept = 0;
    for (int r = 0; r < count; r++) {
      const int slot = seated[r], more = g->known[slot] - g->done[slot] - 1, read = 1 + (more < room ? more : room);
      room -= read - 1;
      for (int i = 0; i < read; i++, total++) {
        row_slots[total] = slot;
        positions[total] = g->done[slot] + i;
        tokens[total] = g->tokens[(int64_t)slot * g->stride + positions[total]];
      }
      g->done[slot] += read;
      gaining[r] = g->done[slot] == g->known[slot];
      if (gaining[r]) rows[wanted++] = total - 1;
    }
    chunk(m, total, tokens, row_slots, positions, wanted, rows, 0, logits, workspace);
    const float *row = logits;
    for (int r = 0; r < count; r++) {
      const int ended = gaining[r] && gain(m, g, seated[r], row, draw);
      row += gaining[r] ? m->vocab : 0;
      seated[kept] = seated[r];
      left[kept] = left[r] - gaining[r];
      kept += !ended && left[kept] > 0;
    }
    count = kept;
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
