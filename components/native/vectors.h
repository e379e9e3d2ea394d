// Vectors of the length that the processor has, and what is made of them, for `kernels.c` and `products.c`.
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE inline __attribute__((always_inline))
#define PARALLEL _Pragma("omp parallel for num_threads(threads) if (threads > 1) schedule(static)")
#define SIMD _Pragma("omp simd")
#define TEXT(x) #x
#define SUM(x) _Pragma(TEXT(omp simd reduction(+ : x)))

static INLINE vec either(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

// Relative error below 2e-7; 0 below -87, finite above 88, NaN stays NaN.
static INLINE vec exponential(vec x) {
    ivec tiny = x < -87.0f;
    x = either(tiny, (vec){0} - 87.0f, either(x > 88.0f, (vec){0} + 88.0f, x));
    ivec exponent = __builtin_convertvector(x * 1.44269504f + 127.5f, ivec);
    vec n = __builtin_convertvector(exponent, vec) - 127.0f;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return either(tiny, (vec){0}, p * (vec)(exponent << 23));
}

// y = exp(x * scale - top), and the sum
static INLINE float powers_of(const float* x, float* y, long n, float scale, float top) {
    vec total = {0};
    long i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec e = exponential(*(const vec*)(x + i) * scale - top);
        *(vec*)(y + i) = e;
        total += e;
    }
    float sum = 0, rest[LANES];
    for (int l = 0; l < LANES; l++) rest[l] = i + l < n ? x[i + l] * scale - top : -__builtin_inff();
    vec e = exponential(*(vec*)rest);
    total += e;
    for (; i < n; i++) y[i] = e[i % LANES];
    for (int l = 0; l < LANES; l++) sum += total[l];
    return sum;
}

static INLINE vec load(const float* x, long n) {  // zeros past n
    if (n >= LANES) return *(const vec*)x;
    float some[LANES] = {0};
    for (long i = 0; i < n; i++) some[i] = x[i];
    return *(vec*)some;
}

static INLINE void store(float* x, long n, vec value) {
    if (n >= LANES) *(vec*)x = value;
    else
        for (long i = 0; i < n; i++) x[i] = value[i];
}

// Sizes are padded to a multiple of this where a loop takes two vectors at a time.
#define COLUMNS (2 * LANES)
static inline long whole(long n) { return (n + COLUMNS - 1) / COLUMNS * COLUMNS; }

// out [n] plus each of the parts [count, n]
static inline void add_parts(const float* parts, float* out, long n, int count, int threads) {
    PARALLEL for (long i = 0; i < n; i += 4096)
        for (int p = 0; p < count; p++) {
            const float* part = parts + p * n;
            SIMD for (long j = i; j < (n - i < 4096 ? n : i + 4096); j++) out[j] += part[j];
        }
}
