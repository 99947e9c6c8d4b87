/* Matrix products in bf16 with sums in fp32, for processors that multiply bf16 in 512-bit registers.
 *
 * Weights come packed: for each 32 outputs, for each pair of inputs, 32 pairs. Outputs are padded with zeros to multiples
 * of 32; inputs must be even.
 */
#pragma once
#include "common.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define HAS_BF16_PRODUCTS
#include <immintrin.h>

#define ALWAYS static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 12")

static inline i64 padded(i64 d) { return (d + 31) & ~(i64)31; }
static inline __mmask16 up_to(i64 left) { return left >= 16 ? 0xffff : (__mmask16)((1 << left) - 1); }

static inline __m512 sigmoid16(__m512 x) { /* to 1 in 10^6 */
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
    t = _mm512_min_ps(_mm512_max_ps(t, _mm512_set1_ps(-126.0f)), _mm512_set1_ps(126.0f));
    __m512 whole = _mm512_roundscale_ps(t, 8), r = _mm512_sub_ps(t, whole);
    __m512 p = _mm512_set1_ps(1.54035e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.33335581e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.61812911e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.40226507e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.93147181e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    __m512 d = _mm512_add_ps(_mm512_scalef_ps(p, whole), _mm512_set1_ps(1.0f)), y = _mm512_rcp14_ps(d);
    return _mm512_mul_ps(y, _mm512_fnmadd_ps(d, y, _mm512_set1_ps(2.0f)));
}

static inline void put(bf16 *to, __m512 x, i64 left) {
    _mm256_mask_storeu_epi16(to, up_to(left), (__m256i)_mm512_cvtneps_pbh(x));
}

/* y (rows, 32) += x (rows, 2 pairs) times 32 packed outputs. */
ALWAYS void tile(const int rows, const bf16 *x, i64 ldx, const bf16 *w, i64 pairs, float *y, i64 ldy) {
    __m512 sum[12][2];
    UNROLL for (int r = 0; r < rows; r++) {
        sum[r][0] = _mm512_loadu_ps(y + r * ldy);
        sum[r][1] = _mm512_loadu_ps(y + r * ldy + 16);
    }
    for (i64 p = 0; p < pairs; p++) {
        __m512bh left = (__m512bh)_mm512_loadu_si512(w + 64 * p);
        __m512bh right = (__m512bh)_mm512_loadu_si512(w + 64 * p + 32);
        UNROLL for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, x + r * ldx + 2 * p, 4);
            __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], both, left);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], both, right);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        _mm512_storeu_ps(y + r * ldy, sum[r][0]);
        _mm512_storeu_ps(y + r * ldy + 16, sum[r][1]);
    }
}

/* y (rows, m) += x (rows, k) w^T. */
static inline void add_product(i64 rows, const bf16 *x, i64 ldx, i64 k, const bf16 *w, float *y, i64 ldy, i64 m) {
    for (i64 c = 0; c < m; c += 32, w += 32 * k) {
        i64 r = 0;
        for (; r + 12 <= rows; r += 12) tile(12, x + r * ldx, ldx, w, k / 2, y + r * ldy + c, ldy);
        for (; r + 4 <= rows; r += 4) tile(4, x + r * ldx, ldx, w, k / 2, y + r * ldy + c, ldy);
        for (; r < rows; r++) tile(1, x + r * ldx, ldx, w, k / 2, y + r * ldy + c, ldy);
    }
}

static inline void begin(i64 rows, const float *bias, float *y, i64 m) { /* without a bias: zeros */
    for (i64 r = 0; r < rows; r++) {
        if (bias) memcpy(y + r * m, bias, m * sizeof *y);
        else memset(y + r * m, 0, m * sizeof *y);
    }
}
#endif
