/* The networks of an ensemble's members without gradients: a tile of rows goes through all layers while it is in the
 * cache. In fp32; or, on processors that multiply bf16, with weights and the inputs of products in bf16.
 */
#include <stdlib.h>

#include "products.h"
#include "products_bf16.h"

#define TILE 48

/* Every member has `inputs`, `layers` of hidden `units`, and `outputs`. Its matrices are in `fine`, or in bf16 in `low`. */
struct net {
    const float *fine, *biases;
    const bf16 *low;
    i64 inputs, layers, units, outputs, silu;
    float slope;
};

static i64 round_up(i64 count, i64 to) { return (count + to - 1) / to * to; }

static i64 count_widest(const struct net *net) {
    i64 most = net->units > net->inputs ? net->units : net->inputs;
    return round_up(most > net->outputs ? most : net->outputs, 32);
}

static void activate(float *x, i64 count, i64 silu, float slope) {
    if (silu)
        SIMD for (i64 k = 0; k < count; k++) x[k] = x[k] * sigmoid(x[k]);
    else
        SIMD for (i64 k = 0; k < count; k++) x[k] = x[k] < 0.0f ? slope * x[k] : x[k];
}

static void run_fine(const struct net *net, i64 member, const float *x, float *y, float *room, i64 rows) {
    i64 units = round_up(net->units, WIDE), outputs = round_up(net->outputs, WIDE), inside = net->layers - 1;
    const float *weights = net->fine + member * (net->inputs * units + inside * net->units * units + net->units * outputs);
    const float *bias = net->biases + member * (net->layers * units + outputs), *from = x;
    float *to = room;
    i64 inputs = net->inputs, apart = net->inputs;
    for (i64 layer = 0; layer < net->layers; layer++, bias += units) {
        multiply_blocks(from, apart, to, rows, inputs, units, weights, bias);
        activate(to, rows * units, net->silu, net->slope);
        weights += inputs * units, inputs = net->units, apart = units;
        from = to, to = to == room ? room + TILE * units : room;
    }
    multiply_blocks(from, apart, y, rows, inputs, outputs, weights, bias);
}

#ifdef HAS_BF16_PRODUCTS
enum activation { NONE, LEAKY, SILU };

/* How many outputs a block has where so many are left: 32, and 16 or 8 for a rest that fits. */
static inline i64 choose_width(i64 left) { return left > 16 ? 32 : left > 8 ? 16 : 8; }

static i64 pad_outputs(i64 count) { return count / 32 * 32 + (count % 32 ? choose_width(count % 32) : 0); }

ALWAYS __m512 activated(__m512 x, const enum activation kind, __m512 slope) {
    if (kind == SILU) return _mm512_mul_ps(x, sigmoid16(x));
    return kind == LEAKY ? _mm512_max_ps(x, _mm512_mul_ps(x, slope)) : x;
}

ALWAYS __m512 load_widened(const float *from, const int width) { /* 8 or 16 numbers */
    return width == 8 ? _mm512_castps256_ps512(_mm256_loadu_ps(from)) : _mm512_loadu_ps(from);
}

/* One block of a layer's outputs for 12, 4, or 1 rows x of `pairs` of inputs: to `low` in bf16, or else to `fine`. */
ALWAYS void run_block(const int rows, const int width, const enum activation kind, float leak, const bf16 *x, i64 ldx,
                      const bf16 *w, i64 pairs, const float *bias, bf16 *low, float *fine, i64 ldy) {
    __m512 sum[12][2], slope = _mm512_set1_ps(leak);
    const int part = width < 16 ? width : 16, parts = width / part;
    UNROLL for (int r = 0; r < rows; r++)
        for (int c = 0; c < parts; c++) sum[r][c] = load_widened(bias + 16 * c, part);
    for (i64 p = 0; p < pairs; p++, w += 2 * width) {
        if (width == 8) {
            __m256bh only = (__m256bh)_mm256_loadu_si256((const void *)w);
            UNROLL for (int r = 0; r < rows; r++) {
                int32_t pair;
                memcpy(&pair, x + r * ldx + 2 * p, 4);
                __m256 before = _mm512_castps512_ps256(sum[r][0]);
                sum[r][0] = _mm512_castps256_ps512(_mm256_dpbf16_ps(before, (__m256bh)_mm256_set1_epi32(pair), only));
            }
            continue;
        }
        __m512bh left = (__m512bh)_mm512_loadu_si512(w);
        __m512bh right = width == 32 ? (__m512bh)_mm512_loadu_si512(w + 32) : left;
        UNROLL for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, x + r * ldx + 2 * p, 4);
            __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], both, left);
            if (width == 32) sum[r][1] = _mm512_dpbf16_ps(sum[r][1], both, right);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        for (int c = 0; c < parts; c++) {
            __m512 y = activated(sum[r][c], kind, slope);
            if (low) put(low + r * ldy + 16 * c, y, part);
            else _mm512_mask_storeu_ps(fine + r * ldy + 16 * c, up_to(part), y);
        }
}

ALWAYS void run_rows(const int width, const enum activation kind, float leak, i64 rows, const bf16 *x, i64 ldx,
                     const bf16 *w, i64 pairs, const float *bias, bf16 *low, float *fine, i64 ldy) {
    i64 r = 0;
#define NEXT(count)                                                                                                      \
    for (; r + count <= rows; r += count)                                                                                \
    run_block(count, width, kind, leak, x + r * ldx, ldx, w, pairs, bias, low ? low + r * ldy : low,                     \
              fine ? fine + r * ldy : fine, ldy)
    NEXT(12);
    NEXT(4);
    NEXT(1);
#undef NEXT
}

/* A layer: x (rows, inputs), even inputs in rows of `ldx`, to `low` or `fine` (rows, padded outputs). */
ALWAYS void run_layer(const enum activation kind, float leak, i64 rows, const bf16 *x, i64 ldx, i64 inputs, const bf16 *w,
                      const float *bias, i64 outputs, bf16 *low, float *fine) {
    i64 ldy = pad_outputs(outputs), width;
    for (i64 at = 0; at < outputs; at += width, w += width * inputs) {
        bf16 *to_low = low ? low + at : low;
        float *to_fine = fine ? fine + at : fine;
        width = choose_width(outputs - at);
        if (width == 32) run_rows(32, kind, leak, rows, x, ldx, w, inputs / 2, bias + at, to_low, to_fine, ldy);
        else if (width == 16) run_rows(16, kind, leak, rows, x, ldx, w, inputs / 2, bias + at, to_low, to_fine, ldy);
        else run_rows(8, kind, leak, rows, x, ldx, w, inputs / 2, bias + at, to_low, to_fine, ldy);
    }
}

static void run_hidden(const struct net *net, i64 rows, const bf16 *x, i64 ldx, i64 inputs, const bf16 *w,
                       const float *bias, bf16 *y) {
    if (net->silu) run_layer(SILU, 0.0f, rows, x, ldx, inputs, w, bias, net->units, y, NULL);
    else run_layer(LEAKY, net->slope, rows, x, ldx, inputs, w, bias, net->units, y, NULL);
}

static void run_low(const struct net *net, i64 member, const float *x, float *y, float *room, i64 rows) {
    i64 units = pad_outputs(net->units), outputs = pad_outputs(net->outputs), inside = net->layers - 1;
    i64 first = round_up(net->inputs, 2), middle = round_up(net->units, 2);
    const bf16 *weights = net->low + member * (first * units + inside * middle * units + middle * outputs);
    const float *bias = net->biases + member * (net->layers * units + outputs);
    bf16 *from = (bf16 *)room, *to = from + TILE * count_widest(net);
    for (i64 r = 0; r < rows; r++)
        for (i64 k = 0; k < first; k++) from[r * first + k] = k < net->inputs ? rounded(x[r * net->inputs + k]) : 0;
    i64 inputs = first, apart = first;
    for (i64 layer = 0; layer < net->layers; layer++, bias += units) {
        run_hidden(net, rows, from, apart, inputs, weights, bias, to);
        weights += inputs * units, inputs = middle, apart = units;
        bf16 *other = from;
        from = to, to = other;
    }
    run_layer(NONE, 0.0f, rows, from, apart, inputs, weights, bias, net->outputs, NULL, y);
}
#endif

static i64 pad_row(const struct net *net) { /* the length of a row of outputs */
#ifdef HAS_BF16_PRODUCTS
    if (net->low) return pad_outputs(net->outputs);
#endif
    return round_up(net->outputs, WIDE);
}

/* x (rows, inputs) through one member to y (rows, padded outputs); `room` holds two tiles of what is widest. */
static void run_tile(const struct net *net, i64 member, const float *x, float *y, float *room, i64 rows) {
#ifdef HAS_BF16_PRODUCTS
    if (net->low) {
        run_low(net, member, x, y, room, rows);
        return;
    }
#endif
    run_fine(net, member, x, y, room, rows);
}

/* x (members, rows, inputs) through each member's layers to y (members, rows, outputs), in fp32 by `fine` or in bf16 by
 * `low`. A matrix has for each block of outputs every input's weights; a bias is filled up to whole blocks. */
void run_members(const float *x, const float *fine, const bf16 *low, const float *biases, float *y, i64 members, i64 rows,
                 i64 inputs, i64 layers, i64 units, i64 outputs, i64 silu, float slope, int threads) {
    struct net net = {fine, biases, low, inputs, layers, units, outputs, silu, slope};
    i64 tiles = (rows + TILE - 1) / TILE, widest = count_widest(&net);
#pragma omp parallel num_threads(threads)
    {
        float *room = malloc(3 * TILE * widest * sizeof(float)), *out = room + 2 * TILE * widest;
#pragma omp for schedule(static)
        for (i64 at = 0; at < members * tiles; at++) {
            i64 member = at / tiles, first = at % tiles * TILE;
            i64 count = rows - first < TILE ? rows - first : TILE, row = member * rows + first;
            run_tile(&net, member, x + row * inputs, out, room, count);
            i64 apart = pad_row(&net);
            for (i64 r = 0; r < count; r++) memcpy(y + (row + r) * outputs, out + r * apart, outputs * sizeof(float));
        }
        free(room);
    }
}

/* One step of each member's rollouts: vectors x (members, rows, n), actions (members, rows, actions) and, if the
 * prediction has variance, noise like x; to y like x. `scales` (3, n): mean and std of the data, and what a prediction
 * is multiplied by before it is added to the mean, or with `residual` to the vector itself. */
void imagine_members(const float *x, const float *action, const float *noise, const float *fine, const bf16 *low,
                     const float *biases, const float *scales, float *y, i64 members, i64 rows, i64 n, i64 actions,
                     i64 layers, i64 units, i64 outputs, i64 silu, i64 residual, float slope, float min_log_var,
                     float max_log_var, int threads) {
    struct net net = {fine, biases, low, n + actions, layers, units, outputs, silu, slope};
    i64 inputs = n + actions, apart = pad_row(&net);
    i64 tiles = (rows + TILE - 1) / TILE, widest = count_widest(&net);
    const float *mean = scales, *std = scales + n, *scale = scales + 2 * n;
    float least = exponential(min_log_var), most = exponential(max_log_var);
#pragma omp parallel num_threads(threads)
    {
        float *room = malloc(4 * TILE * widest * sizeof(float));
        float *in = room + 2 * TILE * widest, *out = room + 3 * TILE * widest;
#pragma omp for schedule(static)
        for (i64 at = 0; at < members * tiles; at++) {
            i64 member = at / tiles, first = at % tiles * TILE;
            i64 count = rows - first < TILE ? rows - first : TILE, row = member * rows + first;
            const float *from = x + row * n, *drawn = noise ? noise + row * n : NULL;
            float *to = y + row * n;
            for (i64 r = 0; r < count; r++) {
                for (i64 k = 0; k < n; k++) in[r * inputs + k] = (from[r * n + k] - mean[k]) / std[k];
                memcpy(in + r * inputs + n, action + (row + r) * actions, actions * sizeof(float));
            }
            run_tile(&net, member, in, out, room, count);
            for (i64 r = 0; r < count; r++)
                for (i64 k = 0; k < n; k++) {
                    float next = out[r * apart + k];
                    /* exp of the log-variance, bounded twice from r: e^min_log_var + e^max_log_var sigmoid(r - max_log_var). */
                    if (drawn)
                        next += drawn[r * n + k] * sqrtf(least + most * sigmoid(out[r * apart + n + k] - max_log_var));
                    to[r * n + k] = next * scale[k] + (residual ? from[r * n + k] : mean[k]);
                }
        }
        free(room);
    }
}
