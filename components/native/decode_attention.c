/* Norms, rotation, and the attention of one token to what its sequence has in the cache. */
#include "decoder.h"

static INLINE vec capped(vec x, float cap) {
  vec e = exponential(splat(2.0f / cap) * x);
  return splat(cap) * (splat(1.0f) - splat(2.0f) / (e + splat(1.0f)));
}

/* 1 / sqrt(mean square + eps) */
static INLINE float inverse_rms(const float *x, int width, float eps) {
  vec sums[4] = {};
  float sum = 0.0f;
  int i = 0;
  for (; i + 4 * LANES <= width; i += 4 * LANES)
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) sums[p] += at(x + i + p * LANES) * at(x + i + p * LANES);
  for (; i + LANES <= width; i += LANES) sums[0] += at(x + i) * at(x + i);
  for (; i < width; i++) sum += x[i] * x[i];
  sums[0] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return 1.0f / sqrtf((sum + sum_of(sums[0])) / width + eps);
}

void rms_norm(const float *x, const float *weight, float *y, int width, float eps) {
  const float scale = inverse_rms(x, width, eps);
  int i = 0;
  for (; i + LANES <= width; i += LANES) put(y + i, at(x + i) * splat(scale) * at(weight + i));
  for (; i < width; i++) y[i] = x[i] * scale * weight[i];
}

/* A head of a query or key: its norm where there is one (`weight`), the rotation, and a factor. */
static INLINE void turn(float *x, const float *weight, const float *cos, const float *sin, int c, float eps,
                        float factor) {
  const int half = c / 2;
  int i = 0;
  if (weight) rms_norm(x, weight, x, c, eps);
  for (; i + LANES <= half; i += LANES) {
    vec a = at(x + i) * splat(factor), b = at(x + i + half) * splat(factor), u = at(cos + i), v = at(sin + i);
    put(x + i, a * u - b * v);
    put(x + i + half, b * u + a * v);
  }
  for (; i < half; i++) {
    const float a = x[i] * factor, b = x[i + half] * factor;
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

/* Scores of up to four blocks; even and odd channels are summed apart, which keeps the multipliers busy. */
static INLINE void score_blocks(const int blocks, const float *q, const float *keys, float *scores, int c) {
  vec even[4], odd[4];
#pragma GCC unroll 4
  for (int b = 0; b < blocks; b++) even[b] = odd[b] = (vec){};
  for (int i = 0; i < c; i += 2) {
    vec first = splat(q[i]), second = splat(q[i + 1]);
#pragma GCC unroll 4
    for (int b = 0; b < blocks; b++) {
      even[b] += first * at(keys + (b * c + i) * BLOCK);
      odd[b] += second * at(keys + (b * c + i + 1) * BLOCK);
    }
  }
#pragma GCC unroll 4
  for (int b = 0; b < blocks; b++) put(scores + b * BLOCK, even[b] + odd[b]);
}

/* y[...] = scale times the sum over positions of weights[s] * values[s][...], in a fixed order. */
static INLINE void mix(const int vecs, const float *weights, const float *values, float *y, int from, int to, int c,
                       float scale) {
  vec acc[2][4];
#pragma GCC unroll 4
  for (int p = 0; p < vecs; p++) acc[0][p] = acc[1][p] = (vec){};
  int s = from;
  for (; s + 1 < to; s += 2) {
    vec a = splat(weights[s]), b = splat(weights[s + 1]);
#pragma GCC unroll 4
    for (int p = 0; p < vecs; p++) {
      acc[0][p] += a * at(values + (int64_t)s * c + p * LANES);
      acc[1][p] += b * at(values + (int64_t)(s + 1) * c + p * LANES);
    }
  }
  if (s < to) {
    vec a = splat(weights[s]);
#pragma GCC unroll 4
    for (int p = 0; p < vecs; p++) acc[0][p] += a * at(values + (int64_t)s * c + p * LANES);
  }
#pragma GCC unroll 4
  for (int p = 0; p < vecs; p++) put(y + p * LANES, (acc[0][p] + acc[1][p]) * splat(scale));
}

/* scores[start..end) of one query with the keys of one head; both ends lie on blocks. */
static void score(const float *q, const float *keys, float *scores, int start, int end, int c) {
  int s = start;
  keys += (int64_t)start * c;
  for (; s + 4 * BLOCK <= end; s += 4 * BLOCK, keys += 4 * BLOCK * (int64_t)c)
    score_blocks(4, q, keys, scores + s, c);
  switch ((end - s) / BLOCK) {
    case 1: score_blocks(1, q, keys, scores + s, c); break;
    case 2: score_blocks(2, q, keys, scores + s, c); break;
    case 3: score_blocks(3, q, keys, scores + s, c); break;
  }
}

/* The highest score of positions [from, to); those beside them in their blocks, which hold nothing or nothing that may
 * be seen, become -inf. */
static INLINE float highest_in(float *scores, int from, int to, int start, int end, float cap) {
  vec top = splat(-INFINITY);
  ivec lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  if (cap > 0)
    for (int s = start; s < end; s += LANES) put(scores + s, capped(at(scores + s), cap));
  put(scores + start, either(lane + start >= from, at(scores + start), top));
  put(scores + end - BLOCK, either(lane + (end - BLOCK) < to, at(scores + end - BLOCK), top));
  for (int s = start; s < end; s += LANES) top = larger(at(scores + s), top);
  return highest_of(top);
}

/* Scores become e^(score - highest); their sum. */
static INLINE float powers(float *scores, int start, int end, float highest) {
  vec sum = (vec){};
  for (int s = start; s < end; s += LANES) {
    vec e = exponential(at(scores + s) - splat(highest));
    put(scores + s, e);
    sum += e;
  }
  return sum_of(sum);
}

void attend(const Model *m, int layer, const float *row, int slot, int position, float *scores, float *y) {
  const int c = m->c, h = m->heads, shared = h / m->kv_heads, room = m->capacity, to = position + 1;
  const int from = m->window && to > m->window ? to - m->window : 0;
  const int start = from / BLOCK * BLOCK, end = (to + BLOCK - 1) / BLOCK * BLOCK;
  float highest[h], scales[h];
  /* One kind of work for all heads, then the next: the processor goes on with one head while it waits for another. */
  for (int head = 0; head < h; head++)
    score(row + head * c, m->keys + begin(m, layer, slot, head / shared), scores + head * (int64_t)room, start, end, c);
  for (int head = 0; head < h; head++)
    highest[head] = highest_in(scores + head * (int64_t)room, from, to, start, end, m->attention_cap);
  for (int head = 0; head < h; head++)
    scales[head] = 1.0f / powers(scores + head * (int64_t)room, start, end, highest[head]);
  for (int head = 0; head < h; head++, y += c) {
    const float *weights = scores + head * (int64_t)room, *values = m->values + begin(m, layer, slot, head / shared);
    int i = 0;
    for (; i + 4 * LANES <= c; i += 4 * LANES) mix(4, weights, values + i, y + i, from, to, c, scales[head]);
    for (; i + LANES <= c; i += LANES) mix(1, weights, values + i, y + i, from, to, c, scales[head]);
    for (; i < c; i++) {
      float one = 0.0f;
      for (int s = from; s < to; s++) one += weights[s] * values[(int64_t)s * c + i];
      y[i] = one * scales[head];
    }
  }
}

void place(const Model *m, int layer, float *row, int slot, int position) {
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

