/* A layer of a frozen encoder on a processor with AVX2: products of 16-bit integers, see ser/native.py.

In: frames of floats. Out: for each stride, the product of `taps` frames with the weights, a bias, and where asked a layer
norm and GELU. Each row of inputs and each column of weights is scaled to integers; 32 bits hold the sum of a block of
BLOCK products whatever they are (Cauchy-Schwarz), and blocks are added as floats. Two multiplications a lane and
instruction: 1.7 times the speed of float32 products, at a rounding of about 1e-4 of a layer's output.

Compiled at run time, `cc -O2 -mavx2 -mfma -shared`; the layout of `Layer` stands in ser/native.py again. */

#include <immintrin.h>
#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum { ROWS = 6, COLUMNS = 16, BLOCK = 64, PIECE = 512, LANES = 8, GAP = 32 };
#define MOST_ROWS 96           /* of a chunk, a multiple of ROWS */
#define MOST_BYTES (256 << 10) /* of a chunk's integers: half of the second cache */
#define LARGEST 32767.0f
#define LARGEST_SUM 2147000000.0f /* a little below 2^31: rounding to integers can lengthen a row */

typedef struct {
    int64_t width;           /* numbers a frame */
    int64_t padded;          /* the same as integers, a multiple of COLUMNS */
    int64_t taps, stride;    /* frames under the kernel, and between two outputs */
    int64_t outputs;         /* numbers of an output frame */
    const int16_t *weights;  /* (panels, taps, padded / 2, COLUMNS, 2) */
    const float *scales;     /* (panels * COLUMNS,) of each column of weights */
    const float *bias;       /* (panels * COLUMNS,) */
    float largest_norm;      /* of BLOCK weights of a column, as integers */
    const float *norm_scale; /* (outputs,) of the layer norm, or NULL for none */
    const float *norm_bias;
    float norm_epsilon;
    int32_t gelu;
} Layer;

typedef struct {
    const Layer *layer;
    const float *in;
    int64_t in_step; /* floats from one frame to the next */
    float *out;
    int64_t n, chunk; /* output frames, of all and of a chunk */
    atomic_long next;
    atomic_int failed;
} Work;

static float sum_of(__m256 v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

static float max_of(__m256 v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}

/* A block of up to BLOCK floats to integers; returns what one of them is worth: NaN where a float is not finite. */
static float block_to_integers(const float *from, int64_t n, float largest_norm, int16_t *to) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 peaks = _mm256_setzero_ps(), squares = _mm256_setzero_ps();
    int64_t at = 0;
    for (; at + LANES <= n; at += LANES) {
        __m256 v = _mm256_loadu_ps(from + at);
        peaks = _mm256_max_ps(peaks, _mm256_andnot_ps(sign, v));
        squares = _mm256_fmadd_ps(v, v, squares);
    }
    float peak = max_of(peaks), energy = sum_of(squares);
    for (; at < n; at++) {
        peak = fmaxf(peak, fabsf(from[at]));
        energy += from[at] * from[at];
    }
    float scale = fmaxf(peak / LARGEST, sqrtf(energy) * largest_norm / LARGEST_SUM);
    if (!(energy < INFINITY)) scale = NAN;
    const float inverse = scale > 0 ? 1 / scale : 0;
    const __m256 by = _mm256_set1_ps(inverse);
    for (at = 0; at + 2 * LANES <= n; at += 2 * LANES) {
        __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from + at), by));
        __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from + at + LANES), by));
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
        _mm256_storeu_si256((__m256i *)(to + at), packed);
    }
    for (; at < n; at++) to[at] = (int16_t)lrintf(fmaxf(-LARGEST, fminf(LARGEST, from[at] * inverse)));
    return scale;
}

/* A frame of `width` floats to `padded` integers, each block with a scale of its own. */
static void to_integers(const Layer *layer, const float *frame, int16_t *integers, float *scales) {
    for (int64_t begin = 0; begin < layer->width; begin += BLOCK) {
        const int64_t left = layer->width - begin;
        *scales++ = block_to_integers(frame + begin, left < BLOCK ? left : BLOCK, layer->largest_norm, integers + begin);
    }
    for (int64_t at = layer->width; at < layer->padded; at++) integers[at] = 0;
}

/* Adds (row r) * (panel of weights), each block times its scale, to `tile` (ROWS, COLUMNS), or sets it. */
static __attribute__((noinline)) void multiply(
    const int16_t *const *rows, const float *const *scales, const int16_t *weights, int64_t k, float *tile, int set) {
    for (int64_t begin = 0; begin < k; begin += BLOCK) {
        int64_t end = begin + BLOCK < k ? begin + BLOCK : k;
        const int16_t *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3], *r4 = rows[4], *r5 = rows[5];
        __m256i s00 = _mm256_setzero_si256(), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
        __m256i s30 = s00, s31 = s00, s40 = s00, s41 = s00, s50 = s00, s51 = s00;
/* Left to itself, gcc keeps the sums in memory, at half the speed. */
#define ADD(row, sum0, sum1)                                                                                  \
    {                                                                                                         \
        __m256i pair, product;                                                                                \
        __asm__("vpbroadcastd %[from], %[pair]\n\tvpmaddwd %[w0], %[pair], %[product]\n\t"                    \
                "vpmaddwd %[w1], %[pair], %[pair]\n\tvpaddd %[product], %[s0], %[s0]\n\t"                     \
                "vpaddd %[pair], %[s1], %[s1]"                                                                \
                : [s0] "+x"(sum0), [s1] "+x"(sum1), [pair] "=&x"(pair), [product] "=&x"(product)              \
                : [from] "m"(*(const int32_t *)(row + at)), [w0] "x"(w0), [w1] "x"(w1));                      \
    }
        for (int64_t at = begin; at < end; at += 2) {
            __m256i w0 = _mm256_load_si256((const __m256i *)weights);
            __m256i w1 = _mm256_load_si256((const __m256i *)(weights + COLUMNS));
            weights += 2 * COLUMNS;
            ADD(r0, s00, s01) ADD(r1, s10, s11) ADD(r2, s20, s21) ADD(r3, s30, s31) ADD(r4, s40, s41) ADD(r5, s50, s51)
        }
        const __m256i sums[ROWS][2] = {{s00, s01}, {s10, s11}, {s20, s21}, {s30, s31}, {s40, s41}, {s50, s51}};
        for (int row = 0; row < ROWS; row++) {
            const __m256 by = _mm256_set1_ps(scales[row][begin / BLOCK]);
            for (int half = 0; half < 2; half++) {
                float *to = tile + row * COLUMNS + half * LANES;
                __m256 old = set && begin == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(to);
                _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[row][half]), by, old));
            }
        }
    }
}

/* x * Phi(x), with erf as a ratio of polynomials on [-4, 4] (that of Eigen and XLA), right to a few 1e-7. */
static __m256 gelu_of(__m256 x) {
    static const float over[] = {-2.72614225801306e-10f, 2.77068142495902e-08f,  -2.10102402082508e-06f,
                                 -5.69250639462346e-05f, -7.34990630326855e-04f, -2.95459980854025e-03f,
                                 -1.60960333262415e-02f};
    static const float under[] = {-1.45660718464996e-05f, -2.13374055278905e-04f, -1.68282697438203e-03f,
                                  -7.37332916720468e-03f, -1.42647390514189e-02f};
    __m256 z = _mm256_mul_ps(x, _mm256_set1_ps(0.70710678f));
    z = _mm256_max_ps(_mm256_min_ps(z, _mm256_set1_ps(4)), _mm256_set1_ps(-4));
    const __m256 square = _mm256_mul_ps(z, z);
    __m256 p = _mm256_set1_ps(over[0]), q = _mm256_set1_ps(under[0]);
    for (int i = 1; i < 7; i++) p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(over[i]));
    for (int i = 1; i < 5; i++) q = _mm256_fmadd_ps(q, square, _mm256_set1_ps(under[i]));
    const __m256 erf = _mm256_div_ps(_mm256_mul_ps(p, z), q), half = _mm256_mul_ps(x, _mm256_set1_ps(0.5f));
    return _mm256_fmadd_ps(half, erf, half);
}

static void gelu_row(float *row, int64_t n) {
    int64_t at = 0;
    for (; at + LANES <= n; at += LANES) _mm256_storeu_ps(row + at, gelu_of(_mm256_loadu_ps(row + at)));
    for (; at < n; at++) row[at] = _mm256_cvtss_f32(gelu_of(_mm256_set1_ps(row[at])));
}

static void norm_row(const Layer *layer, float *row) {
    const int64_t n = layer->outputs;
    double sum = 0, squares = 0;
    for (int64_t at = 0; at < n; at++) sum += row[at];
    const float mean = (float)(sum / n);
    for (int64_t at = 0; at < n; at++) squares += (double)(row[at] - mean) * (row[at] - mean);
    const float by = (float)(1 / sqrt(squares / n + layer->norm_epsilon));
    for (int64_t at = 0; at < n; at++) row[at] = (row[at] - mean) * by * layer->norm_scale[at] + layer->norm_bias[at];
}

/* Scales and biases of a panel's columns: from `tile` into `out`. */
static void finish_columns(const Layer *layer, int64_t column, int64_t n, float *tile, float *out) {
    const int64_t left = layer->outputs - column;
    const float *scales = layer->scales + column, *bias = layer->bias + column;
    for (int half = 0; half < 2; half++) {
        const __m256 by = _mm256_loadu_ps(scales + half * LANES), plus = _mm256_loadu_ps(bias + half * LANES);
        for (int64_t row = 0; row < n; row++) {
            float *from = tile + row * COLUMNS + half * LANES, *to = out + row * layer->outputs + half * LANES;
            const __m256 v = _mm256_fmadd_ps(_mm256_loadu_ps(from), by, plus);
            if (left >= (half + 1) * LANES)
                _mm256_storeu_ps(to, v);
            else {
                _mm256_storeu_ps(from, v);
                for (int64_t at = 0; at < left - half * LANES; at++) to[at] = from[at];
            }
        }
    }
}

static int64_t blocks_of(const Layer *layer) { return (layer->padded + BLOCK - 1) / BLOCK; }

/* Output frames `first` to `first + n`. */
static void do_chunk(const Work *work, int64_t first, int64_t n, int16_t *integers, float *scales, float *tile) {
    const Layer *layer = work->layer;
    const int64_t k = layer->padded, step = k + GAP, blocks = blocks_of(layer), frames = (n - 1) * layer->stride + layer->taps;
    const float *in = work->in + first * layer->stride * work->in_step;
    for (int64_t frame = 0; frame < frames; frame++)
        to_integers(layer, in + frame * work->in_step, integers + frame * step, scales + frame * blocks);
    float *out = work->out + first * layer->outputs;
    const int16_t *weights = layer->weights;
    for (int64_t column = 0; column < layer->outputs; column += COLUMNS) {
        for (int64_t tap = 0; tap < layer->taps; tap++)
            for (int64_t begin = 0; begin < k; begin += PIECE) {
                const int64_t piece = begin + PIECE < k ? PIECE : k - begin;
                for (int64_t group = 0; group < n; group += ROWS) {
                    const int16_t *rows[ROWS];
                    const float *row_scales[ROWS];
                    for (int row = 0; row < ROWS; row++) { /* past the end: the last row again */
                        int64_t frame = (group + row < n ? group + row : n - 1) * layer->stride + tap;
                        rows[row] = integers + frame * step + begin;
                        row_scales[row] = scales + frame * blocks + begin / BLOCK;
                    }
                    multiply(rows, row_scales, weights, piece, tile + group * COLUMNS, tap == 0 && begin == 0);
                }
                weights += piece * COLUMNS;
            }
        finish_columns(layer, column, n, tile, out + column);
    }
    for (int64_t row = 0; row < n; row++) {
        float *frame = out + row * layer->outputs;
        if (layer->norm_scale) norm_row(layer, frame);
        if (layer->gelu) gelu_row(frame, layer->outputs);
    }
}

static void do_chunks(Work *work) {
    const Layer *layer = work->layer;
    const int64_t frames = (work->chunk - 1) * layer->stride + layer->taps;
    int16_t *integers = malloc(frames * (layer->padded + GAP) * sizeof *integers);
    float *scales = malloc(frames * blocks_of(layer) * sizeof *scales);
    float *tile = malloc((work->chunk + ROWS) * COLUMNS * sizeof *tile);
    if (integers && scales && tile)
        for (long chunk; (chunk = atomic_fetch_add(&work->next, 1)) * work->chunk < work->n;) {
            int64_t first = chunk * work->chunk, left = work->n - first;
            do_chunk(work, first, left < work->chunk ? left : work->chunk, integers, scales, tile);
        }
    else
        atomic_store(&work->failed, 1);
    free(integers);
    free(scales);
    free(tile);
}

/* `n` output frames, by the threads that torch uses too; returns 0, or 1 where memory ran out. */
int ser_layer(const Layer *layer, const float *in, int64_t in_step, float *out, int64_t n, int threads) {
    int64_t rows = MOST_BYTES / (layer->padded * (int64_t)sizeof(int16_t)) / layer->stride;
    rows = rows > MOST_ROWS ? MOST_ROWS : rows < ROWS ? ROWS : rows;
    int64_t chunks = (n + rows - 1) / rows;
    chunks = (chunks + threads - 1) / threads * threads;
    const int64_t chunk = ((n + chunks - 1) / chunks + ROWS - 1) / ROWS * ROWS;
    Work work = {.layer = layer, .in = in, .in_step = in_step, .out = out, .n = n, .chunk = chunk};
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        do_chunks(&work);
    } else
        do_chunks(&work);
    return atomic_load(&work.failed);
}

/* tanh as a ratio of polynomials on [-9, 9] (that of Eigen), right to a few 1e-7. */
static __m256 tanh_of(__m256 x) {
    static const float over[] = {-2.76076847742355e-16f, 2.00018790482477e-13f, -8.60467152213735e-11f,
                                 5.12229709037114e-08f,  1.48572235717979e-05f, 6.37261928875436e-04f,
                                 4.89352455891786e-03f};
    static const float under[] = {1.19825839466702e-06f, 1.18534705686654e-04f, 2.26843463243900e-03f,
                                  4.89352518554385e-03f};
    x = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(9)), _mm256_set1_ps(-9));
    const __m256 square = _mm256_mul_ps(x, x);
    __m256 p = _mm256_set1_ps(over[0]), q = _mm256_set1_ps(under[0]);
    for (int i = 1; i < 7; i++) p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(over[i]));
    for (int i = 1; i < 4; i++) q = _mm256_fmadd_ps(q, square, _mm256_set1_ps(under[i]));
    return _mm256_div_ps(_mm256_mul_ps(p, x), q);
}

static __m256 logistic_of(__m256 x) {
    const __m256 half = _mm256_set1_ps(0.5f);
    return _mm256_fmadd_ps(tanh_of(_mm256_mul_ps(x, half)), half, half);
}

/* sums (width,) = bias + state (units,) @ weight (units, width); width is a multiple of 8 * LANES. */
static void step_products(const float *state, const float *weight, const float *bias, int64_t units, int64_t width, float *sums) {
    for (int64_t column = 0; column < width; column += 8 * LANES) {
        __m256 sum[8];
        for (int i = 0; i < 8; i++) sum[i] = _mm256_loadu_ps(bias + column + i * LANES);
        for (int64_t unit = 0; unit < units; unit++) {
            const __m256 by = _mm256_set1_ps(state[unit]);
            const float *row = weight + unit * width + column;
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) sum[i] = _mm256_fmadd_ps(by, _mm256_loadu_ps(row + i * LANES), sum[i]);
        }
        for (int i = 0; i < 8; i++) _mm256_storeu_ps(sums + column + i * LANES, sum[i]);
    }
}

/* One direction of a GRU over one utterance. `units` is a multiple of LANES; gates in the order reset, update, new.

gates (frames, 2, 3 * units): input projections with the biases of the products, but for the last gate's.
weight (units, width): the first 3 * units columns count; bias (width,): of the last gate's product, zero elsewhere.
states (frames, 2, units): where they go; both start at the direction. sums (width,): room. */
static void run_gru(const float *gates, const float *weight, const float *bias, float *states, int64_t frames,
                    int64_t units, int64_t width, int backward, float *sums) {
    const float *before = NULL;
    for (int64_t step = 0; step < frames; step++) {
        const int64_t frame = backward ? frames - 1 - step : step;
        const float *gate = gates + frame * 6 * units;
        float *state = states + frame * 2 * units;
        step_products(before, weight, bias, before ? units : 0, width, sums);
        for (int64_t at = 0; at < units; at += LANES) {
            const __m256 reset = logistic_of(_mm256_add_ps(_mm256_loadu_ps(gate + at), _mm256_loadu_ps(sums + at)));
            const __m256 update = logistic_of(
                _mm256_add_ps(_mm256_loadu_ps(gate + units + at), _mm256_loadu_ps(sums + units + at)));
            const __m256 fresh = tanh_of(_mm256_fmadd_ps(
                reset, _mm256_loadu_ps(sums + 2 * units + at), _mm256_loadu_ps(gate + 2 * units + at)));
            const __m256 old = before ? _mm256_loadu_ps(before + at) : _mm256_setzero_ps();
            _mm256_storeu_ps(state + at, _mm256_fmadd_ps(update, _mm256_sub_ps(old, fresh), fresh));
        }
        before = state;
    }
}

/* A bidirectional GRU layer over utterances that lie one after the other; see run_gru for the shapes.

weight (2, units, width), bias (2, width), lengths (batch,), sums (2 * batch, width): room. */
void ser_gru(const float *gates, const float *weight, const float *bias, float *states, const int64_t *starts,
             const int64_t *lengths, int64_t batch, int64_t units, int64_t width, float *sums, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t one = 0; one < 2 * batch; one++) {
        const int64_t way = one % 2, start = starts[one / 2];
        run_gru(gates + (start * 2 + way) * 3 * units, weight + way * units * width, bias + way * width,
                states + (start * 2 + way) * units, lengths[one / 2], units, width, (int)way, sums + one * width);
    }
}
