/* Passes of rows of tokens, each a (slot, position) of its own: prompts and single steps alike. */
#include "decoder.h"

void lifespan_sizes(int32_t *sizes) {
  sizes[0] = PANEL;
  sizes[1] = BLOCK;
  sizes[2] = sizeof(Model);
}

/* Widths of a row's two buffers: what is read by the next product, and what it writes. */
static int64_t normed_width(const Model *m) { return m->d > m->heads * m->c ? m->d : m->heads * m->c; }
static int64_t work_width(const Model *m) {
  const int64_t qkv = (int64_t)(m->heads + 2 * m->kv_heads) * m->c;
  return qkv > m->ff ? qkv : m->ff;
}

/* Floats of workspace that a pass needs. */
int64_t lifespan_workspace(const Model *m) {
  const int64_t rows = m->d + normed_width(m) + work_width(m), scores = (int64_t)m->heads * m->capacity;
  return CHUNK * rows + scores + (CHUNK + 2) * (int64_t)m->vocab;
}

/* The first layer's queries, keys and values, not placed yet, depend on the token alone: they are computed where it is
 * first met. Threads that meet it at once write the same bits. */
static void look_up(const Model *m, int n, const int32_t *tokens, const float *x, float *normed, float *work,
                    int wide) {
  const int width = (m->heads + 2 * m->kv_heads) * m->c;
  int32_t fresh[CHUNK];
  int count = 0;
  for (int r = 0; r < n; r++)
    if (!__atomic_load_n(m->met + tokens[r], __ATOMIC_ACQUIRE)) {
      rms_norm(x + r * m->d, m->attention_norm[0], normed + count * m->d, m->d, m->eps);
      fresh[count++] = tokens[r];
    }
  assign(normed, m->qkv[0], work, count, m->d, width, m->d, wide);
  for (int i = 0; i < count; i++) {
    memcpy(m->first + (int64_t)fresh[i] * width, work + i * wide, width * sizeof(float));
    __atomic_store_n(m->met + fresh[i], 1, __ATOMIC_RELEASE);
  }
  for (int r = 0; r < n; r++)
    memcpy(work + r * wide, m->first + (int64_t)tokens[r] * width, width * sizeof(float));
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
    if (layer == 0 && m->first) look_up(m, n, tokens, x, normed, work, wide);
    else {
      for (int r = 0; r < n; r++) rms_norm(x + r * d, m->attention_norm[layer], normed + r * d, d, m->eps);
      assign(normed, m->qkv[layer], work, n, d, (h + 2 * k) * c, d, wide);
    }
    count = 0;
    for (int r = 0; r < n; r++) {
      place(m, layer, work + r * wide, slots[r], positions[r]);
      if (last && (count == wanted || rows[count] - offset != r)) continue;
      attend(m, layer, work + r * wide, slots[r], positions[r], scores, normed + count * h * c);
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

/* Pass `n` rows through the model: row r is tokens[r] at positions[r] of slots[r]; rows of one slot come in the order
 * of their positions. Keys and values are written to the cache; the logits of the `wanted` rows (ascending) go to
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

/* Sequences by slot, as an engine keeps them: tokens and log_probs [slots][stride], of which `known` are there and
 * `done` have keys and values; laid out as `DecodeBatch` in decoder.py. All are drawn alike. */
typedef struct {
  SamplingSpec spec;
  int32_t stride, num_stops;
  int32_t *tokens, *known, *done;
  float *log_probs;
  const int32_t *prompt, *limit, *stops;
  const uint64_t *seeds, *streams;
} DecodeBatch;

/* Take the logits of a slot's last token: its next token. Whether that ended it. */
static int gain(const Model *m, const DecodeBatch *g, int slot, const float *logits, float *draw) {
  const int known = g->known[slot]++;
  const uint64_t step = (uint64_t)(known - g->prompt[slot]);
  const double uniform = g->spec.temperature > 0 ? uniform_of(g->seeds[slot], g->streams[slot], step) : 0.0;
  const int64_t at = (int64_t)slot * g->stride + known;
  const int token = choose(&g->spec, logits, m->vocab, uniform, draw, g->log_probs + at);
  g->tokens[at] = token;
  int ended = known + 1 >= g->limit[slot];
  for (int s = 0; s < g->num_stops; s++) ended |= token == g->stops[s];
  return ended;
}

/* Let each of `n` slots read what it has not read yet and gain tokens, until it ends or has gained `steps`. At most
 * `width` go on together, step after step, so that their keys and values stay in the caches; who is through makes room
 * for the next. Threads that share `next` share the work. */
void lifespan_advance(const Model *m, const DecodeBatch *g, int32_t n, const int32_t *slots, int32_t *next, int32_t width,
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
