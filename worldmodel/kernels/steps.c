/* The pointwise steps between matrix products of an update, each in one pass over memory. */
#include "common.h"

#define PART 4096 /* numbers that one thread takes at a time */

static inline float scale_of(const real *x, i64 d, float eps) { /* RMSNorm's factor of one row */
    float s = 0;
    SUM(s) for (i64 j = 0; j < d; j++) s += wide(x[j]) * wide(x[j]);
    return 1.0f / sqrtf(s / d + eps);
}

/* silu(w * x * scale): the norm and nonlinearity after a linear layer. `fine` instead of y keeps fp32. */
void NAMED(norm_silu)(const real *x, const float *w, real *y, float *fine, float *scale, i64 n, i64 d, float eps,
                      int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const real *a = x + i * d;
        float s = scale[i] = scale_of(a, d, eps);
        if (fine) {
            float *o = fine + i * d;
            SIMD for (i64 j = 0; j < d; j++) { float v = wide(a[j]) * s * w[j]; o[j] = v * sigmoid(v); }
        } else {
            real *o = y + i * d;
            SIMD for (i64 j = 0; j < d; j++) { float v = wide(a[j]) * s * w[j]; o[j] = narrow(v * sigmoid(v)); }
        }
    }
}

/* Gradients by x, and by w as partial sums gw (blocks, d) unless it is NULL; they come in as gy or as `fine`. */
void NAMED(norm_silu_back)(const real *gy, const float *fine, const real *x, const float *w, const float *scale,
                           real *gx, float *gw, i64 n, i64 d, i64 blocks, int threads) {
    ROWS for (i64 b = 0; b < blocks; b++) {
        float g[d], h[d], sum[d];
        memset(sum, 0, sizeof sum);
        for (i64 i = b * n / blocks; i < (b + 1) * n / blocks; i++) {
            const real *a = x + i * d;
            real *o = gx + i * d;
            float s = scale[i], dot = 0;
            if (fine) {
                SIMD for (i64 j = 0; j < d; j++) g[j] = fine[i * d + j];
            } else {
                SIMD for (i64 j = 0; j < d; j++) g[j] = wide(gy[i * d + j]);
            }
            SUM(dot) for (i64 j = 0; j < d; j++) {
                h[j] = wide(a[j]) * s;
                float v = h[j] * w[j], p = sigmoid(v);
                g[j] *= p * (1.0f + v * (1.0f - p));
                dot += g[j] * w[j] * h[j];
            }
            dot /= d;
            SIMD for (i64 j = 0; j < d; j++) {
                sum[j] += g[j] * h[j];
                o[j] = narrow(s * (g[j] * w[j] - h[j] * dot));
            }
        }
        if (gw) memcpy(gw + b * d, sum, sizeof sum);
    }
}

/* silu(x) of n numbers. */
void NAMED(silu)(const real *x, real *y, i64 n, int threads) {
    ROWS for (i64 i = 0; i < n; i += PART) {
        i64 end = i + PART < n ? i + PART : n;
        SIMD for (i64 j = i; j < end; j++) y[j] = narrow(wide(x[j]) * sigmoid(wide(x[j])));
    }
}

void NAMED(silu_back)(const real *gy, const real *x, real *gx, i64 n, int threads) {
    ROWS for (i64 i = 0; i < n; i += PART) {
        i64 end = i + PART < n ? i + PART : n;
        SIMD for (i64 j = i; j < end; j++) {
            float v = wide(x[j]), p = sigmoid(v);
            gx[j] = narrow(wide(gy[j]) * p * (1.0f + v * (1.0f - p)));
        }
    }
}

/* The GRU's new state from its normalised gates x (n, 3d): reset, candidate, update (Dreamer 2's form). */
void NAMED(gru)(const real *x, const float *w, const float *state, float *y, float *scale, i64 n, i64 d, float eps,
                int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const real *a = x + i * 3 * d;
        const float *old = state + i * d;
        float *o = y + i * d;
        float s = scale[i] = scale_of(a, 3 * d, eps);
        SIMD for (i64 j = 0; j < d; j++) {
            float reset = sigmoid(wide(a[j]) * s * w[j]);
            float candidate = hyperbolic(reset * wide(a[d + j]) * s * w[d + j]);
            float update = sigmoid(wide(a[2 * d + j]) * s * w[2 * d + j] - 1.0f);
            o[j] = old[j] + update * (candidate - old[j]);
        }
    }
}

void NAMED(gru_back)(const float *gy, const real *x, const float *w, const float *state, const float *scale, real *gx,
              float *gstate, float *gw, i64 n, i64 d, i64 blocks, int threads) {
    ROWS for (i64 b = 0; b < blocks; b++) {
        float g[3 * d], h[3 * d], sum[3 * d];
        memset(sum, 0, sizeof sum);
        for (i64 i = b * n / blocks; i < (b + 1) * n / blocks; i++) {
            const real *a = x + i * 3 * d;
            const float *old = state + i * d, *in = gy + i * d;
            float *back = gstate + i * d;
            real *o = gx + i * 3 * d;
            float s = scale[i], dot = 0;
            SIMD for (i64 j = 0; j < 3 * d; j++) h[j] = wide(a[j]) * s;
            SUM(dot) for (i64 j = 0; j < d; j++) {
                float reset = sigmoid(h[j] * w[j]), inner = h[d + j] * w[d + j];
                float candidate = hyperbolic(reset * inner), update = sigmoid(h[2 * d + j] * w[2 * d + j] - 1.0f);
                back[j] = in[j] * (1.0f - update);
                float into = in[j] * update * (1.0f - candidate * candidate);
                g[j] = into * inner * reset * (1.0f - reset);
                g[d + j] = into * reset;
                g[2 * d + j] = in[j] * (candidate - old[j]) * update * (1.0f - update);
                dot += g[j] * w[j] * h[j] + g[d + j] * w[d + j] * h[d + j] + g[2 * d + j] * w[2 * d + j] * h[2 * d + j];
            }
            dot /= 3 * d;
            SIMD for (i64 j = 0; j < 3 * d; j++) {
                sum[j] += g[j] * h[j];
                o[j] = narrow(s * (g[j] * w[j] - h[j] * dot));
            }
        }
        if (gw) memcpy(gw + b * 3 * d, sum, sizeof sum);
    }
}

/* What two-hot logits x (n, k) over mirrored bins mean: each bin is summed with its opposite first, since the outer ones
 * reach 5e8 and must cancel. */
void NAMED(twohot_mean)(const real *x, const float *bins, float *y, i64 n, i64 k, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const real *a = x + i * k;
        float p[k], most = wide(a[0]), total = 0, sum = 0;
        MOST(most) for (i64 j = 0; j < k; j++) most = wide(a[j]) > most ? wide(a[j]) : most;
        SUM(total) for (i64 j = 0; j < k; j++) total += p[j] = exponential(wide(a[j]) - most);
        SUM(sum) for (i64 j = 0; j < k / 2; j++) sum += (p[k - 1 - j] - p[j]) * bins[k - 1 - j];
        y[i] = sum / total;
    }
}

void NAMED(twohot_mean_back)(const float *gy, const real *x, const float *bins, const float *y, real *gx, i64 n, i64 k,
                      int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const real *a = x + i * k;
        real *o = gx + i * k;
        float p[k], most = wide(a[0]), total = 0;
        MOST(most) for (i64 j = 0; j < k; j++) most = wide(a[j]) > most ? wide(a[j]) : most;
        SUM(total) for (i64 j = 0; j < k; j++) total += p[j] = exponential(wide(a[j]) - most);
        SIMD for (i64 j = 0; j < k; j++) o[j] = narrow(gy[i] / total * p[j] * (bins[j] - y[i]));
    }
}

/* Cross-entropy of logits x (n, k) with a two-hot code: `share` of the bin above `low`, the rest of `low` itself. */
void NAMED(twohot_loss)(const real *x, const i64 *low, const float *share, float *y, i64 n, i64 k, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const real *a = x + i * k;
        float most = wide(a[0]), total = 0;
        MOST(most) for (i64 j = 0; j < k; j++) most = wide(a[j]) > most ? wide(a[j]) : most;
        SUM(total) for (i64 j = 0; j < k; j++) total += exponential(wide(a[j]) - most);
        y[i] = logf(total) + most - (1.0f - share[i]) * wide(a[low[i]]) - share[i] * wide(a[low[i] + 1]);
    }
}

void NAMED(twohot_loss_back)(const float *gy, const real *x, const i64 *low, const float *share, real *gx, i64 n, i64 k,
                      int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const real *a = x + i * k;
        real *o = gx + i * k;
        float p[k], most = wide(a[0]), total = 0;
        MOST(most) for (i64 j = 0; j < k; j++) most = wide(a[j]) > most ? wide(a[j]) : most;
        SUM(total) for (i64 j = 0; j < k; j++) total += p[j] = exponential(wide(a[j]) - most);
        SIMD for (i64 j = 0; j < k; j++) p[j] *= gy[i] / total;
        p[low[i]] -= gy[i] * (1.0f - share[i]);
        p[low[i] + 1] -= gy[i] * share[i];
        SIMD for (i64 j = 0; j < k; j++) o[j] = narrow(p[j]);
    }
}

#define RUN 8 /* categories whose probabilities are summed before any is looked at */

static inline __attribute__((always_inline)) void draw_one(const real *restrict a, float u, real *restrict o,
                                                           float *restrict p, i64 k, float mix) {
    float most = wide(a[0]), total = 0, sum = 0;
    MOST(most) for (i64 j = 0; j < k; j++) most = wide(a[j]) > most ? wide(a[j]) : most;
    SUM(total) for (i64 j = 0; j < k; j++) total += p[j] = exponential(wide(a[j]) - most);
    float part = (1.0f - mix) / total;
    SIMD for (i64 j = 0; j < k; j++) { p[j] = p[j] * part + mix / k; o[j] = 0; }
    /* How many running sums u has passed, whole runs first; counted without branches, which would be mispredicted. */
    i64 runs = (k - 1) / RUN, pick = 0, passed = 0;
    float ahead = 0;
    for (i64 r = 0; r < runs; r++) {
        const float *q = p + r * RUN;
        ahead += ((q[0] + q[1]) + (q[2] + q[3])) + ((q[4] + q[5]) + (q[6] + q[7]));
        pick = ahead <= u ? (r + 1) * RUN : pick;
        sum = ahead <= u ? ahead : sum;
    }
    if (pick + RUN <= k) {
        for (i64 j = pick; j < pick + RUN - 1; j++) { sum += p[j]; passed += sum <= u; }
    } else {
        for (i64 j = pick; j < k - 1; j++) { sum += p[j]; passed += sum <= u; }
    }
    o[pick + passed] = narrow(1.0f);
}

/* One-hot draws y (n, k) of categories with logits x and a uniform share `mix`, by one uniform number u each.
 *
 * `probs` are kept for the backward pass: gradients pass straight through to the probabilities. Every `groups` draws
 * make a row of y, and rows lie `apart`.
 */
void NAMED(draw)(const real *x, const float *u, real *y, float *probs, i64 n, i64 k, i64 groups, i64 apart, float mix,
          int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const real *a = x + i * k;
        real *o = y + i / groups * apart + i % groups * k;
        float *p = probs + i * k;
        if (k == 32) draw_one(a, u[i], o, p, 32, mix); /* the usual numbers of classes, known when this is compiled */
        else if (k == 16) draw_one(a, u[i], o, p, 16, mix);
        else draw_one(a, u[i], o, p, k, mix);
    }
}

void NAMED(draw_back)(const real *gy, const float *probs, real *gx, i64 n, i64 k, float mix, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const real *g = gy + i * k;
        const float *p = probs + i * k;
        real *o = gx + i * k;
        float dot = 0;
        SUM(dot) for (i64 j = 0; j < k; j++) dot += wide(g[j]) * (p[j] - mix / k);
        dot /= 1.0f - mix;
        SIMD for (i64 j = 0; j < k; j++) o[j] = narrow((p[j] - mix / k) * (wide(g[j]) - dot));
    }
}
