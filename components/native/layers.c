// The two layers of a block and the loss, forward and backward, by chunks of rows that stay in the cache from the norm to the last
// product: `layers.py` calls these.
//
// Shapes: B batch, T positions, R = B * T rows, D width, H query heads, K key heads, C head dimension, F hidden width,
// V vocabulary.
// Gradients of weights lie one after another in `grads`, in the order of the arguments.
#include "kernels.h"

#define CHUNK 96  // rows that go through a layer together; in attention whole sequences, one at least

static float* packed_weight(const float* w, long row, long column, long N, long K, int threads) {
    float* to = room(whole(N) * K);
    pack(w, row, column, to, N, K, threads);
    return to;
}

// Adds the other threads' gradients to those of the first, and frees them.
static void add_grads(float* parts, float* grads, long weights, int threads) {
    add_parts(parts, grads, weights, threads - 1, threads);
    free(parts);
}

// total [R, D] = x + delta (may be null), gate_up [R, 2F] = norm(total) wide [2F, D]ᵀ,
// y [R, D] = swiglu(gate_up) narrow [D, F]ᵀ
void feed_forward(const float* x, const float* delta, const float* norm, const float* wide, const float* narrow,
                  float* total, float* rstd, float* gate_up, float* y, long R, long D, long F, float eps, int threads) {
    float* first = packed_weight(wide, 1, D, 2 * F, D, threads);
    float* second = packed_weight(narrow, 1, F, D, F, threads);
    PARALLEL for (int part = 0; part < threads; part++) {
        float *normed = room(CHUNK * (D + F)), *hidden = normed + CHUNK * D;
        for (long i = R * part / threads, end = R * (part + 1) / threads; i < end; i += CHUNK) {
            long rows = least(end - i, CHUNK), at = i * D;
            norm_forward(x + at, delta ? delta + at : 0, norm, total + at, normed, rstd + i, rows, D, eps, 1);
            multiply(normed, D, 1, first, gate_up + i * 2 * F, rows, 2 * F, D, 0);
            swiglu_forward(gate_up + i * 2 * F, hidden, rows, F, 1);
            multiply(hidden, F, 1, second, y + at, rows, D, F, 0);
        }
        free(normed);
    }
    free(first), free(second);
}

// dx [R, D] of x and of delta alike, from dy and the residual stream's gradient (may be null); grads of norm, wide, narrow
void feed_forward_backward(const float* total, const float* rstd, const float* norm, const float* wide,
                           const float* narrow, const float* gate_up, const float* residual, const float* dy, float* dx,
                           float* grads, long R, long D, long F, int threads) {
    long weights = D + 3 * F * D;
    float *first = packed_weight(wide, D, 1, D, 2 * F, threads), *second = packed_weight(narrow, F, 1, F, D, threads);
    float* parts = room((threads - 1) * weights);
    PARALLEL for (int part = 0; part < threads; part++) {
        float *dnorm = part ? parts + (part - 1) * weights : grads, *dwide = dnorm + D, *dnarrow = dwide + 2 * F * D;
        float *dhidden = room(CHUNK * (4 * F + 2 * D) + DEPTH * whole(F > D ? F : D)), *hidden = dhidden + CHUNK * F;
        float *dgate_up = hidden + CHUNK * F, *dnormed = dgate_up + CHUNK * 2 * F, *normed = dnormed + CHUNK * D;
        float* packed = normed + CHUNK * D;
        memset(dnorm, 0, weights * sizeof(float));
        for (long i = R * part / threads, end = R * (part + 1) / threads; i < end; i += CHUNK) {
            long rows = least(end - i, CHUNK), at = i * D;
            multiply(dy + at, D, 1, second, dhidden, rows, F, D, 0);
            swiglu_backward(gate_up + i * 2 * F, dhidden, dgate_up, hidden, rows, F, 1);
            multiply_rows(dy + at, 1, D, hidden, F, 1, dnarrow, D, F, rows, 1, packed);
            multiply(dgate_up, 2 * F, 1, first, dnormed, rows, D, 2 * F, 0);
            norm_backward(total + at, norm, rstd + i, dnormed, residual ? residual + at : 0, dx + at, dnorm, normed,
                          rows, D, 1);
            multiply_rows(dgate_up, 1, 2 * F, normed, D, 1, dwide, 2 * F, D, rows, 1, packed);
        }
        free(dhidden);
    }
    add_grads(parts, grads, weights, threads);
    free(first), free(second);
}

// Sequences of a chunk
static long together(long T) { return T < CHUNK ? CHUNK / T : 1; }

// total [R, D] = x + delta (may be null), qkv [R, (H + 2K) C] = norm(total) wide [.., D]ᵀ, mixed [R, H C] what the heads
// read, y [R, D] = mixed narrow [D, H C]ᵀ; qw and kw, cosines and sines, mask and probs as in kernels.c
void attention_layer(const float* x, const float* delta, const float* norm, const float* wide, const float* narrow,
                     const float* qw, const float* kw, const float* cosines, const float* sines, long turn,
                     const uint8_t* mask, long stride, float* total, float* rstd, float* qkv, float* probs,
                     float* mixed, float* y, long B, long T, long D, long H, long K, long C, float eps, float scale,
                     int threads) {
    long W = (H + 2 * K) * C, most = together(T);
    float *first = packed_weight(wide, 1, D, W, D, threads), *second = packed_weight(narrow, 1, H * C, D, H * C, threads);
    PARALLEL for (int part = 0; part < threads; part++) {
        float *normed = room(most * T * (D + W)), *q = normed + most * T * D;
        for (long b = B * part / threads, end = B * (part + 1) / threads; b < end; b += most) {
            long n = least(end - b, most), rows = n * T, i = b * T, at = i * D;
            float *k = q + rows * H * C, *v = k + rows * K * C;
            norm_forward(x + at, delta ? delta + at : 0, norm, total + at, normed, rstd + i, rows, D, eps, 1);
            multiply(normed, D, 1, first, qkv + i * W, rows, W, D, 0);
            heads_forward(qkv + i * W, qw, kw, cosines + b * turn, sines + b * turn, turn, q, k, v, n, T, H, K, C, eps, 1);
            attention_forward(q, k, v, mask ? mask + b * stride : 0, stride, probs + i * H * whole(T), mixed + i * H * C,
                              n, T, H, K, C, scale, 1);
            multiply(mixed + i * H * C, H * C, 1, second, y + at, rows, D, H * C, 0);
        }
        free(normed);
    }
    free(first), free(second);
}

// dx [R, D] of x and of delta alike, from dy and the residual stream's gradient (may be null); grads of norm, wide,
// narrow, qw and kw (these two are there without norms of heads as well)
void attention_layer_backward(const float* total, const float* rstd, const float* norm, const float* wide,
                              const float* narrow, const float* qw, const float* kw, const float* cosines,
                              const float* sines, long turn, const float* qkv, const float* probs, const float* mixed,
                              int causal, const float* residual, const float* dy, float* dx, float* grads, long B,
                              long T, long D, long H, long K, long C, float eps, float scale, int threads) {
    long W = (H + 2 * K) * C, Q = H * C, most = together(T), weights = D + W * D + D * Q + 2 * C;
    long wider = Q > D ? Q : D;
    float *first = packed_weight(wide, D, 1, D, W, threads), *second = packed_weight(narrow, Q, 1, Q, D, threads);
    float* parts = room((threads - 1) * weights);
    PARALLEL for (int part = 0; part < threads; part++) {
        float *dnorm = part ? parts + (part - 1) * weights : grads, *dwide = dnorm + D, *dnarrow = dwide + W * D;
        float *dqw = dnarrow + D * Q, *dkw = dqw + C;
        float *q = room(most * T * (2 * W + wider + D) + DEPTH * whole(wider)), *dqkv = q, *dq = q + most * T * W;
        float *dmixed = dq + most * T * W, *normed = dmixed + most * T * wider, *packed = normed + most * T * D;
        memset(dnorm, 0, weights * sizeof(float));
        for (long b = B * part / threads, end = B * (part + 1) / threads; b < end; b += most) {
            long n = least(end - b, most), rows = n * T, i = b * T, at = i * D;
            float *k = q + rows * Q, *v = k + rows * K * C, *dk = dq + rows * Q, *dv = dk + rows * K * C;
            const float *cos = cosines + b * turn, *sin = sines + b * turn, *from = mixed + i * Q;
            multiply(dy + at, D, 1, second, dmixed, rows, Q, D, 0);
            multiply_rows(dy + at, 1, D, from, Q, 1, dnarrow, D, Q, rows, 1, packed);
            heads_forward(qkv + i * W, qw, kw, cos, sin, turn, q, k, v, n, T, H, K, C, eps, 1);
            attention_backward(q, k, v, probs + i * H * whole(T), dmixed, causal, dq, dk, dv, n, T, H, K, C, scale, 1);
            heads_backward(qkv + i * W, qw, kw, cos, sin, turn, dq, dk, dv, dqkv, dqw, dkw, n, T, H, K, C, eps, 1);
            multiply(dqkv, W, 1, first, dmixed, rows, D, W, 0);
            norm_backward(total + at, norm, rstd + i, dmixed, residual ? residual + at : 0, dx + at, dnorm, normed,
                          rows, D, 1);
            multiply_rows(dqkv, 1, W, normed, D, 1, dwide, W, D, rows, 1, packed);
        }
        free(q);
    }
    add_grads(parts, grads, weights, threads);
    free(first), free(second);
}

// The loss of entropy_forward on logits x [R, D] w [V, D]ᵀ; powers [R, V] and norms [R, 2] are for the way back
void loss_forward(const float* x, const float* w, const int64_t* targets, const float* weights, long ignore,
                  float* powers, float* norms, double* sums, long R, long D, long V, int threads) {
    float* packed = packed_weight(w, 1, D, V, D, threads);
    double* parts = calloc(threads * 2, sizeof(double));
    PARALLEL for (int part = 0; part < threads; part++)
        for (long i = R * part / threads, end = R * (part + 1) / threads; i < end; i += CHUNK) {
            long rows = least(end - i, CHUNK);
            float* to = powers + i * V;
            multiply(x + i * D, D, 1, packed, to, rows, V, D, 0);
            entropy_forward(to, targets + i, weights ? weights + i : 0, ignore, to, norms + i * 2, parts + part * 2,
                            rows, V, 1);
        }
    for (int part = 0; part < threads; part++) sums[0] += parts[part * 2], sums[1] += parts[part * 2 + 1];
    free(packed), free(parts);
}

// dx [R, D] and dw [V, D] from the derivatives of the two sums
void loss_backward(const float* x, const float* w, const float* powers, const float* norms, const int64_t* targets,
                   const float* weights, long ignore, float g, float gz, float* dx, float* dw, long R, long D, long V,
                   int threads) {
    float *right = packed_weight(w, D, 1, D, V, threads), *parts = room((threads - 1) * V * D);
    PARALLEL for (int part = 0; part < threads; part++) {
        float *d = room(CHUNK * V + DEPTH * whole(D)), *packed = d + CHUNK * V;
        float* to = part ? parts + (part - 1) * V * D : dw;
        memset(to, 0, V * D * sizeof(float));
        for (long i = R * part / threads, end = R * (part + 1) / threads; i < end; i += CHUNK) {
            long rows = least(end - i, CHUNK);
            entropy_backward(powers + i * V, norms + i * 2, targets + i, weights ? weights + i : 0, ignore, g, gz, d,
                             rows, V, 1);
            multiply(d, V, 1, right, dx + i * D, rows, D, V, 0);
            multiply_rows(d, 1, V, x + i * D, D, 1, to, V, D, rows, 1, packed);
        }
        free(d);
    }
    add_grads(parts, dw, V * D, threads);
    free(right);
}
