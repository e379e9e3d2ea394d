/* Matrix products of a few rows with packed weights. */
#include "decoder.h"

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

#define AHEAD 512 /* numbers of the weights that are fetched before their turn: they lie in no near cache */

/* What becomes of a product: it is written, added to what is there, or its gate and up halves become
 * silu(gate) * up. */
enum { ASSIGN, ADD, GATE };

/* x[rows][k] times `panels` panels, accumulators in registers, to y[rows][width]. */
static INLINE void tile(const int rows, const int panels, const int kind, const float *x, const float *w, float *y,
                        int k, int ldx, int ldy, int width) {
  vec acc[6][12];
  const int parts = kind == GATE ? panels : 2 * panels; /* vectors of a row of y */
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 12
    for (int p = 0; p < 2 * panels; p++) acc[r][p] = (vec){};
#pragma GCC unroll 4
  for (int i = 0; i < k; i++) {
    vec b[12];
    if (rows == 6) __builtin_prefetch(w + i * PANEL + AHEAD);
#pragma GCC unroll 12
    for (int p = 0; p < 2 * panels; p++) b[p] = at(w + (int64_t)(p / 2) * k * PANEL + i * PANEL + (p % 2) * LANES);
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
      vec a = splat(x[r * ldx + i]);
#pragma GCC unroll 12
      for (int p = 0; p < 2 * panels; p++) acc[r][p] += a * b[p];
    }
    __asm__ volatile("" ::: "memory"); /* or gcc loads what the next steps need and has no registers left */
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
        if (kind == ADD) acc[r][p] += at(to + p * LANES);
        put(to + p * LANES, acc[r][p]);
      }
    } else {
#pragma GCC unroll 12
      for (int p = 0; p < parts; p++) put(edge + p * LANES, acc[r][p]);
      for (int o = 0; o < width; o++) to[o] = kind == ADD ? to[o] + edge[o] : edge[o];
    }
  }
}

/* y[rows][m] = x[rows][k] w for a few rows: as many panels at once as keep the multipliers busy. */
static INLINE void few(const int rows, const int panels, const int kind, const float *x, const float *w, float *y,
                       int k, int m, int ldx, int ldy) {
  const int one = kind == GATE ? LANES : PANEL, step = panels * one;
  int first = 0;
  for (; first + step <= m; first += step)
    tile(rows, panels, kind, x, w + (int64_t)first / one * PANEL * k, y + first, k, ldx, ldy, step);
  for (; first < m; first += one)
    tile(rows, 1, kind, x, w + (int64_t)first / one * PANEL * k, y + first, k, ldx, ldy,
         m - first < one ? m - first : one);
}

/* y[n][m] from x[n][k] w. A sum runs over k in order, whichever tile computes it. A panel is used for all rows while it
 * lies in the nearest cache. */
static INLINE void product(const int kind, const float *x, const float *w, float *y, int n, int k, int m, int ldx,
                           int ldy) {
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
void assign(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy) {
  product(ASSIGN, x, w, y, n, k, m, ldx, ldy);
}
void accumulate(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy) {
  product(ADD, x, w, y, n, k, m, ldx, ldy);
}
void gated(const float *x, const float *w, float *y, int n, int k, int m, int ldx, int ldy) {
  product(GATE, x, w, y, n, k, m, ldx, ldy);
}

