/* Draws: tokens from logits. */
#include "decoder.h"

/* weights[t] = e^((row[t] - the highest) / temperature), and their sum. */
static double weigh(const float *row, int vocab, float inverse, float *weights, float *highest) {
  float top = row[0];
  double total = 0.0;
  int i = 0;
#pragma omp simd reduction(max : top)
  for (int t = 0; t < vocab; t++) top = row[t] > top ? row[t] : top;
  for (; i + LANES <= vocab; i += LANES) put(weights + i, exponential((at(row + i) - splat(top)) * splat(inverse)));
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

int choose(const SamplingSpec *spec, const float *logits, int vocab, double uniform, float *draw, float *log_prob) {
  const float inverse = spec->temperature > 0 ? 1.0f / spec->temperature : 1.0f, *row = logits;
  float *weights = draw, *allowed = draw + vocab, highest;
  int token = 0;
  if (spec->num_bans) {
    memcpy(allowed, logits, vocab * sizeof(float));
    for (int i = 0; i < spec->num_bans; i++) allowed[spec->bans[i]] = -INFINITY;
    row = allowed;
  }
  double total = weigh(row, vocab, inverse, weights, &highest), left = total, passed = 0.0;
  for (int i = 0; i < spec->num_bans; i++) weights[spec->bans[i]] = 0.0f;
  if (spec->temperature > 0) {
    if (spec->top_k > 0 && spec->top_k < vocab) left = cut(weights, vocab, least_kept(weights, vocab, 1, spec->top_k));
    if (spec->top_p < 1) left = cut(weights, vocab, least_kept(weights, vocab, 0, spec->top_p * left));
    if (spec->min_p > 0) left = cut(weights, vocab, spec->min_p);
    const double threshold = uniform * left;
    for (int t = 0; t < vocab && passed <= threshold; t++) {
      passed += weights[t];
      token = weights[t] > 0.0f ? t : token;
    }
  } else
    while (token + 1 < vocab && row[token] < highest) token++;
  if (spec->raw && (spec->num_bans || inverse != 1.0f)) {
    total = weigh(logits, vocab, 1.0f, weights, &highest);
    *log_prob = (float)((double)(logits[token] - highest) - log(total));
  } else
    *log_prob = (float)((double)(row[token] - highest) * inverse - log(total));
  return token;
}

/* `choose` for each of `n` rows. */
void lifespan_choose(const SamplingSpec *spec, const float *logits, int32_t n, int32_t vocab, const double *uniform,
                     int32_t *tokens, float *log_probs, float *draw) {
  for (int r = 0; r < n; r++)
    tokens[r] = choose(spec, logits + (int64_t)r * vocab, vocab, uniform[r], draw, log_probs + r);
}

static uint64_t finalized(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

double uniform_of(uint64_t seed, uint64_t stream, uint64_t step) {
  const uint64_t state = finalized(seed * 0xD1342543DE82EF95u + stream * 0x9E3779B97F4A7C15u);
  return (double)(finalized(state + step * 0xBF58476D1CE4E5B9u) >> 11) * 0x1p-53;
}

