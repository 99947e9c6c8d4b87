/* The pointwise steps between matrix products of one bf16 update, each in one pass over memory. */
#include "common.h"

static inline float scale_of(const bf16 *x, i64 d, float eps) { /* RMSNorm's factor of one row */
    float s = 0;
    SUM(s) for (i64 j = 0; j < d; j++) s += f(x[j]) * f(x[j]);
    return 1.0f / sqrtf(s / d + eps);
}

/* silu(w * x * scale): the norm and nonlinearity after a linear layer. `fine` instead of y keeps fp32. */
void norm_silu(const bf16 *x, const float *w, bf16 *y, float *fine, float *scale, i64 n, i64 d, float eps, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const bf16 *a = x + i * d;
        float s = scale[i] = scale_of(a, d, eps);
        if (fine) {
            float *o = fine + i * d;
            SIMD for (i64 j = 0; j < d; j++) { float v = f(a[j]) * s * w[j]; o[j] = v * sigmoid(v); }
        } else {
            bf16 *o = y + i * d;
            SIMD for (i64 j = 0; j < d; j++) { float v = f(a[j]) * s * w[j]; o[j] = rounded(v * sigmoid(v)); }
        }
    }
}

/* Gradients by x, and by w as partial sums gw (blocks, d) unless it is NULL; they come in as gy or as `fine`. */
void norm_silu_back(const bf16 *gy, const float *fine, const bf16 *x, const float *w, const float *scale, bf16 *gx,
                    float *gw, i64 n, i64 d, i64 blocks, int threads) {
    ROWS for (i64 b = 0; b < blocks; b++) {
        float g[d], h[d], sum[d];
        memset(sum, 0, sizeof sum);
        for (i64 i = b * n / blocks; i < (b + 1) * n / blocks; i++) {
            const bf16 *a = x + i * d;
            bf16 *o = gx + i * d;
            float s = scale[i], dot = 0;
            if (fine) {
                SIMD for (i64 j = 0; j < d; j++) g[j] = fine[i * d + j];
            } else {
                SIMD for (i64 j = 0; j < d; j++) g[j] = f(gy[i * d + j]);
            }
            SUM(dot) for (i64 j = 0; j < d; j++) {
                h[j] = f(a[j]) * s;
                float v = h[j] * w[j], p = sigmoid(v);
                g[j] *= p * (1.0f + v * (1.0f - p));
                dot += g[j] * w[j] * h[j];
            }
            dot /= d;
            SIMD for (i64 j = 0; j < d; j++) {
                sum[j] += g[j] * h[j];
                o[j] = rounded(s * (g[j] * w[j] - h[j] * dot));
            }
        }
        if (gw) memcpy(gw + b * d, sum, sizeof sum);
    }
}

/* The GRU's new state from its normalised gates x (n, 3d): reset, candidate, update (Dreamer 2's form). */
void gru(const bf16 *x, const float *w, const float *state, float *y, float *scale, i64 n, i64 d, float eps, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const bf16 *a = x + i * 3 * d;
        const float *old = state + i * d;
        float *o = y + i * d;
        float s = scale[i] = scale_of(a, 3 * d, eps);
        SIMD for (i64 j = 0; j < d; j++) {
            float reset = sigmoid(f(a[j]) * s * w[j]);
            float candidate = hyperbolic(reset * f(a[d + j]) * s * w[d + j]);
            float update = sigmoid(f(a[2 * d + j]) * s * w[2 * d + j] - 1.0f);
            o[j] = old[j] + update * (candidate - old[j]);
        }
    }
}

void gru_back(const float *gy, const bf16 *x, const float *w, const float *state, const float *scale, bf16 *gx,
              float *gstate, float *gw, i64 n, i64 d, i64 blocks, int threads) {
    ROWS for (i64 b = 0; b < blocks; b++) {
        float g[3 * d], h[3 * d], sum[3 * d];
        memset(sum, 0, sizeof sum);
        for (i64 i = b * n / blocks; i < (b + 1) * n / blocks; i++) {
            const bf16 *a = x + i * 3 * d;
            const float *old = state + i * d, *in = gy + i * d;
            float *back = gstate + i * d;
            bf16 *o = gx + i * 3 * d;
            float s = scale[i], dot = 0;
            SIMD for (i64 j = 0; j < 3 * d; j++) h[j] = f(a[j]) * s;
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
                o[j] = rounded(s * (g[j] * w[j] - h[j] * dot));
            }
        }
        if (gw) memcpy(gw + b * 3 * d, sum, sizeof sum);
    }
}

/* What two-hot logits x (n, k) over mirrored bins mean: each bin is summed with its opposite first, since the outer ones
 * reach 5e8 and must cancel. */
void twohot_mean(const bf16 *x, const float *bins, float *y, i64 n, i64 k, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const bf16 *a = x + i * k;
        float p[k], most = f(a[0]), total = 0, sum = 0;
        MOST(most) for (i64 j = 0; j < k; j++) most = f(a[j]) > most ? f(a[j]) : most;
        SUM(total) for (i64 j = 0; j < k; j++) total += p[j] = exponential(f(a[j]) - most);
        SUM(sum) for (i64 j = 0; j < k / 2; j++) sum += (p[k - 1 - j] - p[j]) * bins[k - 1 - j];
        y[i] = sum / total;
    }
}

void twohot_mean_back(const float *gy, const bf16 *x, const float *bins, const float *y, bf16 *gx, i64 n, i64 k,
                      int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const bf16 *a = x + i * k;
        bf16 *o = gx + i * k;
        float p[k], most = f(a[0]), total = 0;
        MOST(most) for (i64 j = 0; j < k; j++) most = f(a[j]) > most ? f(a[j]) : most;
        SUM(total) for (i64 j = 0; j < k; j++) total += p[j] = exponential(f(a[j]) - most);
        SIMD for (i64 j = 0; j < k; j++) o[j] = rounded(gy[i] / total * p[j] * (bins[j] - y[i]));
    }
}

/* Cross-entropy of logits x (n, k) with a two-hot code: `share` of the bin above `low`, the rest of `low` itself. */
void twohot_loss(const bf16 *x, const i64 *low, const float *share, float *y, i64 n, i64 k, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const bf16 *a = x + i * k;
        float most = f(a[0]), total = 0;
        MOST(most) for (i64 j = 0; j < k; j++) most = f(a[j]) > most ? f(a[j]) : most;
        SUM(total) for (i64 j = 0; j < k; j++) total += exponential(f(a[j]) - most);
        y[i] = logf(total) + most - (1.0f - share[i]) * f(a[low[i]]) - share[i] * f(a[low[i] + 1]);
    }
}

void twohot_loss_back(const float *gy, const bf16 *x, const i64 *low, const float *share, bf16 *gx, i64 n, i64 k,
                      int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const bf16 *a = x + i * k;
        bf16 *o = gx + i * k;
        float p[k], most = f(a[0]), total = 0;
        MOST(most) for (i64 j = 0; j < k; j++) most = f(a[j]) > most ? f(a[j]) : most;
        SUM(total) for (i64 j = 0; j < k; j++) total += p[j] = exponential(f(a[j]) - most);
        SIMD for (i64 j = 0; j < k; j++) p[j] *= gy[i] / total;
        p[low[i]] -= gy[i] * (1.0f - share[i]);
        p[low[i] + 1] -= gy[i] * share[i];
        SIMD for (i64 j = 0; j < k; j++) o[j] = rounded(p[j]);
    }
}

#define RUN 8 /* categories whose probabilities are summed before any is looked at */

static inline __attribute__((always_inline)) void draw_one(const bf16 *restrict a, float u, bf16 *restrict o,
                                                           float *restrict p, i64 k, float mix) {
    float most = f(a[0]), total = 0, sum = 0;
    MOST(most) for (i64 j = 0; j < k; j++) most = f(a[j]) > most ? f(a[j]) : most;
    SUM(total) for (i64 j = 0; j < k; j++) total += p[j] = exponential(f(a[j]) - most);
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
    o[pick + passed] = 0x3f80; /* 1.0 */
}

/* One-hot draws y (n, k) of categories with logits x and a uniform share `mix`, by one uniform number u each.
 *
 * `probs` are kept for the backward pass: gradients pass straight through to the probabilities. Every `groups` draws
 * make a row of y, and rows lie `apart`.
 */
void draw(const bf16 *x, const float *u, bf16 *y, float *probs, i64 n, i64 k, i64 groups, i64 apart, float mix,
          int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const bf16 *a = x + i * k;
        bf16 *o = y + i / groups * apart + i % groups * k;
        float *p = probs + i * k;
        if (k == 32) draw_one(a, u[i], o, p, 32, mix); /* the usual numbers of classes, known when this is compiled */
        else if (k == 16) draw_one(a, u[i], o, p, 16, mix);
        else draw_one(a, u[i], o, p, k, mix);
    }
}

void draw_back(const bf16 *gy, const float *probs, bf16 *gx, i64 n, i64 k, float mix, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        const bf16 *g = gy + i * k;
        const float *p = probs + i * k;
        bf16 *o = gx + i * k;
        float dot = 0;
        SUM(dot) for (i64 j = 0; j < k; j++) dot += f(g[j]) * (p[j] - mix / k);
        dot /= 1.0f - mix;
        SIMD for (i64 j = 0; j < k; j++) o[j] = rounded((p[j] - mix / k) * (f(g[j]) - dot));
    }
}
