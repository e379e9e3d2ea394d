/* What the parts of the decoder share: a dense model, and the pieces that a pass over rows of tokens is made of.
 *
 * Why C: at these sizes a step of torch is a hundred small operations whose dispatch costs more than their work.
 * Every output number is summed in an order that depends on the model alone, never on what else is in the batch, so a
 * sequence gets the same bits whatever runs beside it and however its prompt was cut up.
 *
 * Names: n rows, d model width, h query heads, k key heads, c head dimension, f feed-forward width, v vocabulary,
 * s positions. Matrices are packed in panels of PANEL outputs: packed[panel][input][output in panel].
 * Keys lie in blocks of as many positions as a vector has lanes, [block][c][position in block], so that a score needs
 * no sum over lanes; values lie as [position][c].
 */
#pragma once
#include <math.h>

#include "vectors.h"

#define PANEL (2 * LANES)
#define BLOCK LANES
#define CHUNK 96 /* rows that go through the layers together */

typedef struct {
  int32_t vocab, d, layers, heads, kv_heads, c, ff, slots, capacity, window, context;
  float eps, attention_cap, logit_cap;
  const float *embedding, *cos, *sin, *last_norm, *unembedding;
  /* per layer; the two head norms and the bias are null where the model has none */
  const float **attention_norm, **qkv, **qkv_bias, **q_norm, **k_norm, **out, **mlp_norm, **gate_up, **down;
  float *keys, *values; /* [layers][slots][kv_heads][capacity * c] */
  float *first;         /* [vocab][(h + 2k) * c], filled as tokens are first met; null where it would be large */
  uint8_t *met;         /* [vocab] */
} Model;

/* `sampling.SamplingParams`, as far as it is about a single token; laid out as `SamplingSpec` in decoder.py. */
typedef struct {
  int32_t top_k, num_bans, raw;
  float temperature, top_p, min_p;
  const int32_t *bans;
} SamplingSpec;

static INLINE vec splat(float x) { return x - (vec){}; }
static INLINE vec at(const float *p) { return *(const vec *)p; }
static INLINE void put(float *p, vec x) { *(vec *)p = x; }
static INLINE vec larger(vec a, vec b) { return either(a > b, a, b); }

/* Floats from the start of the keys, or values, to those of a layer, slot and head. */
static inline int64_t begin(const Model *m, int64_t layer, int slot, int head) {
  return ((layer * m->slots + slot) * m->kv_heads + head) * m->capacity * m->c;
}

/* Over the lanes, halves by halves. */
static INLINE float sum_of(vec x) {
  float t[LANES];
  put(t, x);
  for (int w = LANES / 2; w; w /= 2)
    for (int i = 0; i < w; i++) t[i] += t[i + w];
  return t[0];
}
static INLINE float highest_of(vec x) {
  float t[LANES];
  put(t, x);
  for (int w = LANES / 2; w; w /= 2)
    for (int i = 0; i < w; i++) t[i] = t[i] > t[i + w] ? t[i] : t[i + w];
  return t[0];
}

/* Only what begins with lifespan_ is seen from outside. */
#pragma GCC visibility push(hidden)

/* decode_panels.c: y[n][m] = x[n][k] w, += x w, or silu(gate) * up of x w; rows of x and y are ldx and ldy apart. */
void assign(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy);
void accumulate(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy);
void gated(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy);

/* decode_attention.c: norms alone; norms, rotation and scale of a row's queries and keys, whose keys and values go to
 * their places in the cache; attention of a placed row's queries to what its slot holds, to y[heads * c], with room for
 * scores[heads][capacity]. */
void rms_norm(const float *x, const float *weight, float *y, int width, float eps);
void place(const Model *m, int layer, float *row, int slot, int position);
void attend(const Model *m, int layer, const float *row, int slot, int position, float *scores, float *y);

/* decode_draw.c: `sampling.choose` for a row of logits (the most probable token at temperature 0, else the first whose
 * cumulative probability passes `uniform`; `draw` has room for two rows), and `sampling.uniforms` of one token. */
int choose(const SamplingSpec *spec, const float *logits, int vocab, double uniform, float *draw, float *log_prob);
double uniform_of(uint64_t seed, uint64_t stream, uint64_t step);

#pragma GCC visibility pop
