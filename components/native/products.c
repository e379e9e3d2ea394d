// Matrix products, and what is done to their rows: `kernels.py` calls these, and `layers.c`.
//
// After Goto & van de Geijn (2008): the right side is packed into panels of two vectors, of which one stays in the
// first cache; the left side is read where it lies.
// Every sum has a fixed order for a given number of threads, so a step gives the same bits each time.
#include "kernels.h"

#define ROWS 6
#define BLOCK 96  // rows of the left side that stay in the second

// One tile of c (+)= a b: six rows of a by strides, one panel of b
static INLINE void tile(const float* a, const long row, const long step, const float* b, float* c, long c_row,
                        long depth, int add) {
    vec sum[ROWS][2];
    for (int r = 0; r < ROWS; r++) {
        __builtin_prefetch(c + r * c_row, 1);
        for (int i = 0; i < 2; i++) sum[r][i] = (vec){0};
    }
    for (long k = 0; k < depth; k++) {
        vec first = *(const vec*)(b + k * COLUMNS), second = *(const vec*)(b + k * COLUMNS + LANES);
        _Pragma("GCC unroll 6") for (int r = 0; r < ROWS; r++) {
            float x = a[k * step + r * row];
            sum[r][0] += x * first;
            sum[r][1] += x * second;
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < 2; i++) {
            vec* to = (vec*)(c + r * c_row + i * LANES);
            *to = add ? (vec)(*to + sum[r][i]) : sum[r][i];
        }
}

// The right side b [K, N] in chunks of DEPTH, each in panels [depth, COLUMNS]: K * whole(N) numbers
void pack(const float* b, long row, long column, float* to, long N, long K, int threads) {
    EACH(for (long j = 0; j < whole(N); j += COLUMNS) {
        long n = least(N - j, COLUMNS);
        for (long k0 = 0; k0 < K; k0 += DEPTH) {
            long depth = least(K - k0, DEPTH);
            float* panel = to + k0 * whole(N) + j * depth;
            const float* from = b + k0 * row + j * column;
            if (column == 1 && n == COLUMNS)
                for (long k = 0; k < depth; k++) memcpy(panel + k * COLUMNS, from + k * row, COLUMNS * sizeof(float));
            else
                for (long i = 0; i < COLUMNS; i++)
                    for (long k = 0; k < depth; k++) panel[k * COLUMNS + i] = i < n ? from[k * row + i * column] : 0;
        }
    })
}

// c [M, N] (+)= a [M, K] b on one thread, a by strides and b packed
void multiply(const float* a, long row, long column, const float* b, float* c, long M, long N, long K, int add) {
    float last[ROWS * DEPTH], edge[ROWS * COLUMNS];  // the rows past the last whole strip; a tile over the border of c
    for (long i = 0; i < M; i += BLOCK)
        for (long k = 0; k < K; k += DEPTH) {
            long depth = least(K - k, DEPTH), rows = least(M - i, BLOCK), strips = rows / ROWS * ROWS;
            const float* from = a + i * row + k * column;
            for (long l = 0; l < depth && strips < rows; l++)
                for (long r = 0; r < ROWS; r++)
                    last[l * ROWS + r] = strips + r < rows ? from[(strips + r) * row + l * column] : 0;
            for (long j = 0; j < N; j += COLUMNS)
                for (long s = 0; s < rows; s += ROWS) {
                    long m = least(rows - s, ROWS), n = least(N - j, COLUMNS);
                    int full = m == ROWS && n == COLUMNS, more = full && (add || k);
                    float *place = c + (i + s) * N + j, *to = full ? place : edge;
                    const float *left = from + s * row, *right = b + k * whole(N) + j * depth;
                    long to_row = full ? N : COLUMNS;
                    if (m < ROWS) tile(last, 1, ROWS, right, to, to_row, depth, more);
                    else if (column == 1) tile(left, row, 1, right, to, to_row, depth, more);
                    else if (row == 1) tile(left, 1, column, right, to, to_row, depth, more);
                    else tile(left, row, column, right, to, to_row, depth, more);
                    for (long r = 0; r < m && !full; r++)
                        for (long l = 0; l < n; l++)
                            place[r * N + l] = edge[r * COLUMNS + l] + (add || k ? place[r * N + l] : 0);
                }
        }
}

// c [M, N] = aᵀ b over K rows of both, one chunk at a time, so that only chunks are packed
void multiply_rows(const float* a, long row, long column, const float* b, long b_row, long b_column, float* c, long M,
                   long N, long K, int add, float* packed) {
    for (long k = 0; k < K; k += DEPTH) {
        long depth = least(K - k, DEPTH);
        pack(b + k * b_row, b_row, b_column, packed, N, depth, 1);
        multiply(a + k * column, row, column, packed, c, M, N, depth, add || k);
    }
}

// c [M, N] = a [M, K] b [K, N], a and b by strides; a deep product is divided among threads by its depth
void product(const float* a, long a_row, long a_column, const float* b, long b_row, long b_column, float* c, long M,
             long N, long K, int threads) {
    if (a_column == 1 || K <= M) {
        float* packed = malloc((whole(N) * K + 1) * sizeof(float));
        pack(b, b_row, b_column, packed, N, K, threads);
        EACH(for (int part = 0; part < threads; part++) {
            long from = M * part / threads / ROWS * ROWS, to = M * (part + 1) / threads / ROWS * ROWS;
            if (part + 1 == threads) to = M;
            multiply(a + from * a_row, a_row, a_column, packed, c + from * N, to - from, N, K, 0);
        })
        free(packed);
        return;
    }
    float *parts = malloc(((threads - 1) * M * N + 1) * sizeof(float));
    float *packed = malloc(threads * whole(N) * DEPTH * sizeof(float));
    EACH(for (int part = 0; part < threads; part++) {
        long from = K * part / threads, to = K * (part + 1) / threads;
        float* out = part ? parts + (part - 1) * M * N : c;
        if (from == to) memset(out, 0, M * N * sizeof(float));
        multiply_rows(a + from * a_column, a_row, a_column, b + from * b_row, b_row, b_column, out, M, N, to - from, 0,
                      packed + part * whole(N) * DEPTH);
    })
    add_parts(parts, c, M * N, threads - 1, threads);
    free(parts), free(packed);
}

// y = silu(gate) * up of rows [gate | up]
void swiglu_forward(const float* x, float* y, long rows, long F, int threads) {
    EACH(for (long row = 0; row < rows; row++) {
        const float *gate = x + row * 2 * F, *up = gate + F;
        float* out = y + row * F;
        for (long i = 0; i < F; i += LANES) {
            vec g = load(gate + i, F - i);
            store(out + i, F - i, g / (1.0f + exponential(-g)) * load(up + i, F - i));
        }
    })
}

// dx [gate | up]; and y again, unless null (it may lie where dy does)
void swiglu_backward(const float* x, const float* dy, float* dx, float* y, long rows, long F, int threads) {
    EACH(for (long row = 0; row < rows; row++) {
        const float *gate = x + row * 2 * F, *up = gate + F, *g = dy + row * F;
        float *dgate = dx + row * 2 * F, *dup = dgate + F;
        for (long i = 0; i < F; i += LANES) {
            vec z = load(gate + i, F - i), back = load(g + i, F - i), u = load(up + i, F - i);
            vec s = 1.0f / (1.0f + exponential(-z)), silu = z * s;
            store(dup + i, F - i, back * silu);
            store(dgate + i, F - i, back * u * (s + silu * (1.0f - s)));
            if (y) store(y + row * F + i, F - i, silu * u);
        }
    })
}
