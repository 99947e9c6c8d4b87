/* What the fused steps share.
 *
 * Matrix products take and give bf16 or fp32; everything in between is computed in fp32 here, as torch does it, but
 * without a trip to memory after every operation. Rows are independent, and sums over rows are taken in a fixed number
 * of blocks, so results do not depend on the number of threads. n rows; d numbers in a row.
 */
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
typedef int64_t i64;

#define ROWS _Pragma("omp parallel for num_threads(threads) schedule(static)")
#define SIMD _Pragma("omp simd")
#define SUM(s) PRAGMA(omp simd reduction(+ : s))
#define MOST(s) PRAGMA(omp simd reduction(max : s))
#define PRAGMA(x) _Pragma(#x)

static inline float f(bf16 x) {
    uint32_t u = (uint32_t)x << 16;
    float y;
    memcpy(&y, &u, 4);
    return y;
}

static inline bf16 rounded(float x) { /* to nearest even; a NaN stays one */
    uint32_t u;
    memcpy(&u, &x, 4);
    uint32_t near = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return x == x ? near : 0x7fc0;
}

static inline float exponential(float x) { /* to 1 in 10^7: 2^k times a polynomial of what is left */
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float k = rintf(x * 1.44269504f);
    float r = x - k * 0.693359375f + k * 2.12194440e-4f;
    float p = 1.98756915e-4f;
    p = p * r + 1.39819995e-3f;
    p = p * r + 8.33345191e-3f;
    p = p * r + 4.16657959e-2f;
    p = p * r + 1.66666655e-1f;
    p = p * r + 5.00000012e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t u = (uint32_t)((int32_t)k + 127) << 23;
    float power;
    memcpy(&power, &u, 4);
    return p * power;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
static inline float hyperbolic(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

/* `real` is the type of what goes into a step and comes out: bf16, or float where IN_FP32 is defined. */
#ifdef IN_FP32
typedef float real;
#define NAMED(step) step##_fp32
static inline float wide(real x) { return x; }
static inline real narrow(float x) { return x; }
#else
typedef bf16 real;
#define NAMED(step) step##_bf16
static inline float wide(real x) { return f(x); }
static inline real narrow(float x) { return rounded(x); }
#endif
