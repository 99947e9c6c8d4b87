/* An imagined step and a head in one call: a few rows go through all products and the steps between within the cache.
 *
 * For processors that multiply bf16 in 512-bit registers; elsewhere these functions are missing and their callers do
 * without.
 */
#include "products_bf16.h"

#ifdef HAS_BF16_PRODUCTS
#define SOME 24 /* rows that go through together */

static inline __m512 factor(const float *y, i64 m, i64 d, float eps) { /* RMSNorm's, of a padded row */
    __m512 sum = _mm512_setzero_ps();
    for (i64 j = 0; j < m; j += 16) {
        __m512 v = _mm512_loadu_ps(y + j);
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    return _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(sum) / d + eps));
}

/* SiLU of the norm of rows (rows, d), to bf16 rows that lie `apart`, or in place where there are none. */
static void norm_silu_of(i64 rows, float *y, i64 d, const float *w, float eps, bf16 *out, i64 apart) {
    i64 m = padded(d);
    for (i64 r = 0; r < rows; r++) {
        float *a = y + r * m;
        __m512 s = factor(a, m, d, eps);
        for (i64 j = 0; j < m; j += 16) {
            __m512 v = _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(a + j), s), _mm512_loadu_ps(w + j));
            v = _mm512_mul_ps(v, sigmoid16(v));
            if (!out) _mm512_storeu_ps(a + j, v);
            else if (j < d) put(out + r * apart + j, v, d - j);
        }
    }
}

/* The GRU's new state from its gates (rows, 3, padded d), in fp32 and in bf16 rows that lie `apart`. */
static void gru_of(i64 rows, const float *y, i64 d, const float *w, float eps, const float *old, float *new, bf16 *near,
                   i64 apart) {
    i64 m = padded(d);
    __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
    for (i64 r = 0; r < rows; r++) {
        const float *a = y + r * 3 * m;
        __m512 s = factor(a, 3 * m, 3 * d, eps);
#define GATE(i) _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(a + (i) * m + j), s), _mm512_loadu_ps(w + (i) * m + j))
        for (i64 j = 0; j < d; j += 16) {
            __mmask16 mask = up_to(d - j);
            __m512 inner = _mm512_mul_ps(sigmoid16(GATE(0)), GATE(1));
            __m512 candidate = _mm512_fmsub_ps(two, sigmoid16(_mm512_mul_ps(two, inner)), one);
            __m512 update = sigmoid16(_mm512_sub_ps(GATE(2), one));
            __m512 before = _mm512_maskz_loadu_ps(mask, old + r * d + j);
            __m512 after = _mm512_fmadd_ps(update, _mm512_sub_ps(candidate, before), before);
            _mm512_mask_storeu_ps(new + r * d + j, mask, after);
            put(near + r * apart + j, after, d - j);
        }
#undef GATE
    }
}

static inline __m512 softplus16(__m512 x) { /* max(x, 0) + log(1 + e^-|x|), the logarithm as 2 atanh(e / (2 + e)) */
    __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f), p = _mm512_set1_ps(1.0f / 11);
    __m512 share = sigmoid16(_mm512_abs_ps(x)); /* e^-|x| = 1 / share - 1 */
    __m512 e = _mm512_sub_ps(_mm512_div_ps(one, share), one), s = _mm512_div_ps(e, _mm512_add_ps(two, e));
    __m512 q = _mm512_mul_ps(s, s);
    p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(1.0f / 9));
    p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(1.0f / 7));
    p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(1.0f / 5));
    p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(1.0f / 3));
    p = _mm512_fmadd_ps(p, q, one);
    return _mm512_fmadd_ps(_mm512_mul_ps(two, s), p, _mm512_max_ps(x, _mm512_setzero_ps()));
}

/* Draws from normal distributions whose parameters are rows (rows, [means | what softplus makes the stds of]). */
static void draw_of(i64 rows, const float *y, i64 apart, const float *noise, i64 stoch, float least, bf16 *out, i64 size) {
    for (i64 r = 0; r < rows; r++)
        for (i64 j = 0; j < stoch; j += 16) {
            __mmask16 mask = up_to(stoch - j);
            const float *mean = y + r * apart + j;
            __m512 std = _mm512_add_ps(softplus16(_mm512_maskz_loadu_ps(mask, mean + stoch)), _mm512_set1_ps(least));
            __m512 drawn = _mm512_maskz_loadu_ps(mask, noise + r * stoch + j);
            put(out + r * size + j, _mm512_fmadd_ps(std, drawn, _mm512_maskz_loadu_ps(mask, mean)), stoch - j);
        }
}

/* From states in rows [input | deter | stoch] of `size`, inputs missing, and actions: the next deter, here and in the
 * next rows, and there either the latent sampled with `noise`, or in `params` the prior's parameters. */
void imagine_step(bf16 *row, const bf16 *action, const float *old, bf16 *next, float *deter, const float *noise,
                  bf16 *params, const bf16 *from_action, const float *bias, const bf16 *from_stoch, const float *input_norm,
                const bf16 *into_gates, const float *gates_bias, const float *gru_norm, const bf16 *to_prior,
                const float *prior_norm, const bf16 *to_params, const float *params_bias, i64 n, i64 size, i64 actions,
                i64 stoch, i64 hidden, i64 d, i64 count, float eps, float least, int threads) {
    i64 h = padded(hidden), g = 3 * padded(d), c = padded(count), most = h > g ? h : g;
    most = most > c ? most : c;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 i = 0; i < n; i += SOME) {
        i64 rows = n - i < SOME ? n - i : SOME;
        float y[SOME * most];
        bf16 middle[SOME * hidden], *here = row + i * size, *there = next + i * size + hidden;
        begin(rows, bias, y, h);
        add_product(rows, action + i * actions, actions, actions, from_action, y, h, h);
        add_product(rows, here + hidden + d, size, stoch, from_stoch, y, h, h);
        norm_silu_of(rows, y, hidden, input_norm, eps, here, size);
        begin(rows, gates_bias, y, g);
        add_product(rows, here, size, hidden + d, into_gates, y, g, g);
        gru_of(rows, y, d, gru_norm, eps, old + i * d, deter + i * d, there, size);
        begin(rows, NULL, y, h);
        add_product(rows, there, size, d, to_prior, y, h, h);
        norm_silu_of(rows, y, hidden, prior_norm, eps, middle, hidden);
        begin(rows, params_bias, y, c);
        add_product(rows, middle, hidden, hidden, to_params, y, c, c);
        if (noise) draw_of(rows, y, c, noise + i * stoch, stoch, least, there + d, size);
        for (i64 r = 0; params && r < rows; r++)
            for (i64 j = 0; j < count; j += 16)
                put(params + (i + r) * count + j, _mm512_loadu_ps(y + r * c + j), count - j);
    }
}

/* An MLP's outputs (n, outputs) of features x (n, k) in rows that lie `apart`: `fine` by fp32 weights `exact`
 * (outputs, padded units), or `rough` by packed ones. */
void run_mlp(const bf16 *x, float *fine, bf16 *rough, const bf16 *first, const bf16 *rest, const float *norms,
               const float *exact, const bf16 *last, const float *bias, i64 n, i64 apart, i64 k, i64 layers, i64 units,
               i64 outputs, float eps, int threads) {
    i64 u = padded(units), o = padded(outputs), most = u > o ? u : o;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 i = 0; i < n; i += SOME) {
        i64 rows = n - i < SOME ? n - i : SOME;
        float y[SOME * most];
        bf16 middle[SOME * units];
        for (i64 l = 0; l < layers; l++) {
            begin(rows, NULL, y, u);
            if (l) add_product(rows, middle, units, units, rest + (l - 1) * u * units, y, u, u);
            else add_product(rows, x + i * apart, apart, k, first, y, u, u);
            int keep = fine && l == layers - 1;
            norm_silu_of(rows, y, units, norms + l * u, eps, keep ? NULL : middle, units);
        }
        if (fine) {
            for (i64 r = 0; r < rows; r++)
                for (i64 j = 0; j < outputs; j++) {
                    __m512 sum = _mm512_setzero_ps();
                    for (i64 q = 0; q < u; q += 16)
                        sum = _mm512_fmadd_ps(_mm512_loadu_ps(y + r * u + q), _mm512_loadu_ps(exact + j * u + q), sum);
                    fine[(i + r) * outputs + j] = _mm512_reduce_add_ps(sum) + bias[j];
                }
        } else {
            begin(rows, bias, y, o);
            add_product(rows, middle, units, units, last, y, o, o);
            for (i64 r = 0; r < rows; r++)
                for (i64 j = 0; j < outputs; j += 16)
                    put(rough + (i + r) * outputs + j, _mm512_loadu_ps(y + r * o + j), outputs - j);
        }
    }
}
#endif
