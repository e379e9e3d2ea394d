// What the C files of this folder call of each other; each is explained where it is.
#pragma once
#include "vectors.h"

#define DEPTH 256  // of one chunk of a product: a panel of it stays in the first cache

// A loop whose turns go to several threads; one alone runs it as it is, as to start even one takes a microsecond.
#define EACH(...) \
    if (threads > 1) { \
        PARALLEL __VA_ARGS__ \
    } else { \
        __VA_ARGS__ \
    }

static inline long least(long a, long b) { return a < b ? a : b; }
static inline float* room(long n) { return aligned_alloc(64, (n / 16 + 1) * 64); }  // on the border of a cache line

// kernels.c
void norm_forward(const float* x, const float* delta, const float* w, float* total, float* y, float* rstd, long rows,
                  long d, float eps, int threads);
void norm_backward(const float* x, const float* w, const float* rstd, const float* dy, const float* residual, float* dx,
                   float* dw, float* y, long rows, long d, int threads);
void heads_forward(const float* qkv, const float* qw, const float* kw, const float* cosines, const float* sines,
                   long stride, float* q, float* k, float* v, long B, long T, long H, long K, long C, float eps,
                   int threads);
void heads_backward(const float* qkv, const float* qw, const float* kw, const float* cosines, const float* sines,
                    long stride, const float* dq, const float* dk, const float* dv, float* dqkv, float* dqw, float* dkw,
                    long B, long T, long H, long K, long C, float eps, int threads);
void attention_forward(const float* q, const float* k, const float* v, const uint8_t* mask, long stride, float* probs,
                       float* out, long B, long T, long H, long K, long C, float scale, int threads);
void attention_backward(const float* q, const float* k, const float* v, const float* probs, const float* dout,
                        int causal, float* dq, float* dk, float* dv, long B, long T, long H, long K, long C,
                        float scale, int threads);
void entropy_forward(const float* logits, const int64_t* targets, const float* weights, long ignore, float* powers,
                     float* norms, double* sums, long rows, long V, int threads);
void entropy_backward(const float* powers, const float* norms, const int64_t* targets, const float* weights,
                      long ignore, float g, float gz, float* d, long rows, long V, int threads);

// products.c
void pack(const float* b, long row, long column, float* to, long N, long K, int threads);
void multiply(const float* a, long row, long column, const float* b, float* c, long M, long N, long K, int add);
void multiply_rows(const float* a, long row, long column, const float* b, long b_row, long b_column, float* c, long M,
                   long N, long K, int add, float* packed);
void swiglu_forward(const float* x, float* y, long rows, long F, int threads);
void swiglu_backward(const float* x, const float* dy, float* dx, float* y, long rows, long F, int threads);
