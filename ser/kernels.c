/* Layers of a frozen model on a processor with AVX2, for one answer or for a corpus; see ser/native.py. One that has
AVX-512's VNNI too does two instructions' work in one, with the same result to the last bit.

ser_layer: a convolution over time or a linear layer, its bias, and where asked a residual that is added, a layer norm
and GELU, in products of 16-bit integers. A block of BLOCK inputs and a column of weights have a scale each, such that 32 bits hold the sum of a
block's products whatever they are (Cauchy-Schwarz); blocks are added as floats. One instruction multiplies sixteen
pairs, twice as many as with floats, at a rounding of about 1e-4 of a layer's output.

Compiled at run time, `cc -O2 -mavx2 -mfma -fopenmp`; the layout of `Layer` stands in ser/native.py again. */

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "floats.h"

enum { BLOCK = 64 };
enum { ROWS = 6, COLUMNS = 16 }; /* of a tile of sums, in registers */
enum { WIDE = 2 * ROWS };        /* rows of a tile with AVX-512 */
enum { PIECE = 512 };            /* inputs at a time: their weights stay in the first cache */
enum { GAP = 32 };               /* integers between rows, so that these do not share a cache's places */
enum { MOST_UNITS = 48, MOST_BYTES = 128 << 10 }; /* of a chunk, whose integers stay in the second cache */
#define LARGEST 32767.0f
#define LARGEST_WEIGHT 16383.0f /* half of what fits: leaves the inputs as much of the 31 bits of a sum */
#define LARGEST_SUM 2146900000.0f /* below 2^31 by what rounding to integers can add, half a unit in each of BLOCK */

typedef struct {
    int64_t width;           /* numbers a frame */
    int64_t padded;          /* the same as integers, a multiple of COLUMNS */
    int64_t taps, stride;    /* frames under the kernel, and between two outputs */
    int64_t outputs;         /* numbers of an output frame */
    int64_t threes;          /* 1: taps 3 and stride 2, three outputs at a time, see THREES */
    const int16_t *weights;  /* (panels, terms, padded / 2, COLUMNS, 2) */
    const float *scales;     /* (panels * COLUMNS,) of each column of weights */
    const float *bias;       /* (panels * COLUMNS,) */
    float largest_norm;      /* of BLOCK weights of a column, as integers */
    const float *norm_scale; /* (outputs,) of the layer norm, or NULL for none */
    const float *norm_bias;
    float norm_epsilon;
    int32_t gelu;
    int32_t wide;            /* 1: with AVX-512, see ser_has_wide */
} Layer;

/* A product that is added to a tile: which row of a unit, to which of its tiles. */
typedef struct {
    int row, tile;
} Term;

/* Three outputs of taps w0, w1, w2 with stride 2, from frames e0 o0 e1 o1 e2 o2 e3. The even ones meet two taps with a
stride of one: four products in place of six (Winograd's F(3, 2), points 0, 1, -1 and infinity). The rows, and the
weights that they meet: e0 - e2 (w0), (e1 + e2) / 2 (w0 + w2), (e2 - e1) / 2 (w0 - w2), e3 - e1 (w2), o0, o1, o2 (w1).
The second and third belong to all outputs and have tiles of their own. */
enum { SUM = 3, DIFFERENCE = 4, TILES_OF_THREE = 5, ROWS_OF_THREE = 7, TERMS_OF_THREE = 7 };
static const Term THREES[TERMS_OF_THREE] = {{0, 0}, {4, 0}, {5, 1}, {3, 2}, {6, 2}, {1, SUM}, {2, DIFFERENCE}};

/* How a layer is computed: in units of so many outputs, each from so many rows of integers. */
typedef struct {
    int64_t outputs, step, rows, tiles, terms; /* step: rows from one unit to the next */
} Plan;

static Plan plan_of(const Layer *layer) {
    if (layer->threes) return (Plan){3, ROWS_OF_THREE, ROWS_OF_THREE, TILES_OF_THREE, TERMS_OF_THREE};
    return (Plan){1, layer->stride, layer->taps, 1, layer->taps};
}

static Term term_of(const Layer *layer, int64_t number) {
    return layer->threes ? THREES[number] : (Term){(int)number, 0};
}

typedef struct {
    const Layer *layer;
    Plan plan;
    const float *in;
    int64_t in_step;    /* floats from one frame to the next */
    const float *zeros; /* (width,) */
    const float *residual; /* (n, outputs), or NULL for none */
    float *out;
    int64_t n, units;   /* output frames, and units of them */
    int64_t chunk;      /* units that a thread does at a time, at most */
    int threads;
    atomic_llong next;  /* unit */
    atomic_int failed;
} Work;

/* A thread's own. */
typedef struct {
    int16_t *integers; /* (rows, padded + GAP) */
    float *scales;     /* (rows, blocks) */
    float *tiles;      /* (tiles, units of a chunk, COLUMNS) */
    float *frame;      /* (width,) */
} Room;

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
        const int64_t left = layer->width - begin, n = left < BLOCK ? left : BLOCK;
        *scales++ = block_to_integers(frame + begin, n, layer->largest_norm, integers + begin);
    }
    for (int64_t at = layer->width; at < layer->padded; at++) integers[at] = 0;
}

/* Adds ROWS rows times a panel of weights, each block times its scale, to `tile` (ROWS, COLUMNS), or sets it. */
static __attribute__((noinline)) void multiply_rows(
    const int16_t *rows, int64_t row_step, const float *scales, int64_t scale_step, const int16_t *weights, int64_t k,
    float *tile, int set) {
    const int16_t *r0 = rows, *r1 = r0 + row_step, *r2 = r1 + row_step, *r3 = r2 + row_step, *r4 = r3 + row_step;
    const int16_t *r5 = r4 + row_step;
    if (set)
        for (int at = 0; at < ROWS * COLUMNS; at += LANES) _mm256_storeu_ps(tile + at, _mm256_setzero_ps());
    for (int64_t begin = 0; begin < k; begin += BLOCK) {
        int64_t end = begin + BLOCK < k ? begin + BLOCK : k;
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
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; row++) {
            const __m256 by = _mm256_set1_ps(scales[row * scale_step + begin / BLOCK]);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                float *to = tile + row * COLUMNS + half * LANES;
                _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[row][half]), by, _mm256_loadu_ps(to)));
            }
        }
    }
}

/* The same for `n` rows, ROWS or WIDE of them, with AVX-512: a register holds the sums of all columns. */
static inline __attribute__((always_inline, target("avx512f,avx512vnni"))) void multiply_wide_rows(
    const int16_t *rows, int64_t row_step, const float *scales, int64_t scale_step, const int16_t *weights, int64_t k,
    float *tile, int set, const int n) {
    __m512 total[WIDE];
#pragma GCC unroll 12
    for (int row = 0; row < n; row++) total[row] = set ? _mm512_setzero_ps() : _mm512_loadu_ps(tile + row * COLUMNS);
    for (int64_t begin = 0; begin < k; begin += BLOCK) {
        const int64_t end = begin + BLOCK < k ? begin + BLOCK : k;
        __m512i sum[WIDE];
#pragma GCC unroll 12
        for (int row = 0; row < n; row++) sum[row] = _mm512_setzero_si512();
        for (int64_t at = begin; at < end; at += 2, weights += 2 * COLUMNS) {
            const __m512i w = _mm512_load_si512(weights);
#pragma GCC unroll 12
            for (int row = 0; row < n; row++) /* with intrinsics gcc moves the sums about */
                __asm__("vpdpwssd %[from]%{1to16%}, %[w], %[sum]"
                        : [sum] "+v"(sum[row])
                        : [from] "m"(*(const int32_t *)(rows + row * row_step + at)), [w] "v"(w));
        }
#pragma GCC unroll 12
        for (int row = 0; row < n; row++) {
            const __m512 by = _mm512_set1_ps(scales[row * scale_step + begin / BLOCK]);
            total[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[row]), by, total[row]);
        }
    }
#pragma GCC unroll 12
    for (int row = 0; row < n; row++) _mm512_storeu_ps(tile + row * COLUMNS, total[row]);
}

/* Adds `n` rows, and those that fill up the last ROWS, times a panel of weights to `tile`, or sets it. */
static void multiply(const int16_t *rows, int64_t row_step, const float *scales, int64_t scale_step,
                     const int16_t *weights, int64_t k, float *tile, int set, int64_t n) {
    for (; n > 0; n -= ROWS, rows += ROWS * row_step, scales += ROWS * scale_step, tile += ROWS * COLUMNS)
        multiply_rows(rows, row_step, scales, scale_step, weights, k, tile, set);
}

static __attribute__((target("avx512f,avx512vnni"))) void multiply_wide(
    const int16_t *rows, int64_t row_step, const float *scales, int64_t scale_step, const int16_t *weights, int64_t k,
    float *tile, int set, int64_t n) {
    for (; n > ROWS; n -= WIDE, rows += WIDE * row_step, scales += WIDE * scale_step, tile += WIDE * COLUMNS)
        multiply_wide_rows(rows, row_step, scales, scale_step, weights, k, tile, set, WIDE);
    if (n > 0) multiply_wide_rows(rows, row_step, scales, scale_step, weights, k, tile, set, ROWS);
}

static void gelu_row(float *row, int64_t n) {
    int64_t at = 0;
    for (; at + LANES <= n; at += LANES) _mm256_storeu_ps(row + at, gelu_of(_mm256_loadu_ps(row + at)));
    for (; at < n; at++) row[at] = _mm256_cvtss_f32(gelu_of(_mm256_set1_ps(row[at])));
}

static void norm_row(const Layer *layer, float *row) {
    const int64_t n = layer->outputs, whole = n - n % LANES;
    __m256 sums = _mm256_setzero_ps(), squares = sums;
    float sum = 0, square = 0;
    for (int64_t at = 0; at < whole; at += LANES) sums = _mm256_add_ps(sums, _mm256_loadu_ps(row + at));
    for (int64_t at = whole; at < n; at++) sum += row[at];
    const float mean = (sum_of(sums) + sum) / n;
    for (int64_t at = 0; at < whole; at += LANES) {
        const __m256 off = _mm256_sub_ps(_mm256_loadu_ps(row + at), _mm256_set1_ps(mean));
        squares = _mm256_fmadd_ps(off, off, squares);
    }
    for (int64_t at = whole; at < n; at++) square += (row[at] - mean) * (row[at] - mean);
    const float by = 1 / sqrtf((sum_of(squares) + square) / n + layer->norm_epsilon);
    for (int64_t at = 0; at < whole; at += LANES) {
        const __m256 off = _mm256_sub_ps(_mm256_loadu_ps(row + at), _mm256_set1_ps(mean));
        const __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(layer->norm_scale + at), _mm256_set1_ps(by));
        _mm256_storeu_ps(row + at, _mm256_fmadd_ps(off, scale, _mm256_loadu_ps(layer->norm_bias + at)));
    }
    for (int64_t at = whole; at < n; at++)
        row[at] = (row[at] - mean) * by * layer->norm_scale[at] + layer->norm_bias[at];
}

static int64_t blocks_of(const Layer *layer) { return (layer->padded + BLOCK - 1) / BLOCK; }

/* x * a + y * b */
static void combine(float x, const float *a, float y, const float *b, int64_t n, float *out) {
    const __m256 xs = _mm256_set1_ps(x), ys = _mm256_set1_ps(y);
    int64_t at = 0;
    for (; at + LANES <= n; at += LANES) {
        const __m256 second = _mm256_mul_ps(ys, _mm256_loadu_ps(b + at));
        _mm256_storeu_ps(out + at, _mm256_fmadd_ps(xs, _mm256_loadu_ps(a + at), second));
    }
    for (; at < n; at++) out[at] = x * a[at] + y * b[at];
}

/* The integers of `units` units from the one that begins at the frame `in`; what lies behind `left` frames is zero. */
static void fill_rows(const Work *work, const float *in, int64_t left, int64_t units, const Room *room) {
    const Layer *layer = work->layer;
    const int64_t step = layer->padded + GAP, blocks = blocks_of(layer), width = layer->width;
    if (!layer->threes) {
        const int64_t rows = (units - 1) * work->plan.step + work->plan.rows;
        for (int64_t row = 0; row < rows; row++)
            to_integers(layer, in + row * work->in_step, room->integers + row * step, room->scales + row * blocks);
        return;
    }
    for (int64_t unit = 0; unit < units; unit++, in += 6 * work->in_step, left -= 6) {
        const float *frames[ROWS_OF_THREE];
        for (int at = 0; at < ROWS_OF_THREE; at++) frames[at] = at < left ? in + at * work->in_step : work->zeros;
        int16_t *integers = room->integers + unit * ROWS_OF_THREE * step;
        float *scales = room->scales + unit * ROWS_OF_THREE * blocks;
        const float *const pairs[4][2] = {
            {frames[0], frames[4]}, {frames[2], frames[4]}, {frames[4], frames[2]}, {frames[6], frames[2]}};
        const float factors[4][2] = {{1, -1}, {0.5f, 0.5f}, {0.5f, -0.5f}, {1, -1}};
        for (int row = 0; row < ROWS_OF_THREE; row++) {
            const float *frame = row < 4 ? room->frame : frames[2 * row - 7];
            if (row < 4) combine(factors[row][0], pairs[row][0], factors[row][1], pairs[row][1], width, room->frame);
            to_integers(layer, frame, integers + row * step, scales + row * blocks);
        }
    }
}

static void store_columns(float *to, __m256 v, int64_t n) {
    if (n >= LANES) {
        _mm256_storeu_ps(to, v);
        return;
    }
    float all[LANES];
    _mm256_storeu_ps(all, v);
    for (int64_t at = 0; at < n; at++) to[at] = all[at];
}

/* Scales and biases of a panel's columns: from the tiles into `out`, `n` frames. */
static void finish_columns(
    const Layer *layer, int64_t column, int64_t n, int64_t chunk, const float *tiles, float *out) {
    const int64_t left = layer->outputs - column, tile = chunk * COLUMNS, width = layer->outputs;
    for (int64_t half = 0; half < COLUMNS && half < left; half += LANES) {
        const __m256 by = _mm256_loadu_ps(layer->scales + column + half);
        const __m256 bias = _mm256_loadu_ps(layer->bias + column + half);
        const float *from = tiles + half;
        float *to = out + half;
        if (!layer->threes)
            for (int64_t frame = 0; frame < n; frame++, from += COLUMNS, to += width)
                store_columns(to, _mm256_fmadd_ps(_mm256_loadu_ps(from), by, bias), left - half);
        else
            for (int64_t frame = 0; frame < n; frame += 3, from += COLUMNS, to += 3 * width) {
                const __m256 sum = _mm256_loadu_ps(from + SUM * tile);
                const __m256 rest = _mm256_loadu_ps(from + DIFFERENCE * tile);
                const __m256 outer = _mm256_add_ps(sum, rest), middle = _mm256_sub_ps(sum, rest);
                for (int at = 0; at < 3 && frame + at < n; at++) {
                    const __m256 v = _mm256_add_ps(_mm256_loadu_ps(from + at * tile), at == 1 ? middle : outer);
                    store_columns(to + at * width, _mm256_fmadd_ps(v, by, bias), left - half);
                }
            }
    }
}

/* A term of a panel: adds its product to its tile, for all units of a chunk. */
static void add_term(const Work *work, Term term, int set, const int16_t *weights, int64_t units, const Room *room) {
    const int64_t k = work->layer->padded, step = k + GAP, blocks = blocks_of(work->layer);
    float *tile = room->tiles + term.tile * work->chunk * COLUMNS;
    for (int64_t begin = 0; begin < k; begin += PIECE) {
        const int64_t piece = begin + PIECE < k ? PIECE : k - begin;
        const int16_t *integers = room->integers + term.row * step + begin;
        const float *scales = room->scales + term.row * blocks + begin / BLOCK;
        (work->layer->wide ? multiply_wide : multiply)( /* of units past the end, sums that nobody reads */
            integers, work->plan.step * step, scales, work->plan.step * blocks, weights + begin * COLUMNS, piece, tile,
            set && begin == 0, units);
    }
}

/* `units` units from the unit `first` on. */
static void do_chunk(const Work *work, int64_t first, int64_t units, const Room *room) {
    const Layer *layer = work->layer;
    const Plan plan = work->plan;
    const int64_t frame = first * plan.outputs, left = work->n - frame, most = units * plan.outputs;
    const int64_t n = left < most ? left : most;
    const int64_t heard = (left - 1) * layer->stride + layer->taps;
    fill_rows(work, work->in + frame * layer->stride * work->in_step, heard, units, room);
    float *out = work->out + frame * layer->outputs;
    const int16_t *weights = layer->weights;
    for (int64_t column = 0; column < layer->outputs; column += COLUMNS) {
        unsigned begun = 0; /* a bit a tile */
        for (int64_t number = 0; number < plan.terms; number++, weights += layer->padded * COLUMNS) {
            const Term term = term_of(layer, number);
            add_term(work, term, !(begun >> term.tile & 1), weights, units, room);
            begun |= 1u << term.tile;
        }
        finish_columns(layer, column, n, work->chunk, room->tiles, out + column);
    }
    for (int64_t row = 0; row < n; row++) {
        float *const done = out + row * layer->outputs;
        if (work->residual) combine(1, done, 1, work->residual + (frame + row) * layer->outputs, layer->outputs, done);
        if (layer->norm_scale) norm_row(layer, done);
        if (layer->gelu) gelu_row(done, layer->outputs);
    }
}

/* The next chunk: its units, 0 where none is left. Chunks become smaller, so that all threads end together. */
static int64_t take_chunk(Work *work, int64_t *first) {
    long long at = atomic_load(&work->next);
    int64_t units;
    do {
        const int64_t left = work->units - at, parts = work->threads > 1 ? 2 * work->threads : 1;
        if (left <= 0) return 0;
        units = ((left + parts - 1) / parts + ROWS - 1) / ROWS * ROWS;
        if (units > work->chunk) units = work->chunk;
        if (units > left) units = left;
    } while (!atomic_compare_exchange_weak(&work->next, &at, at + units));
    *first = at;
    return units;
}

static void do_chunks(Work *work) {
    const Layer *layer = work->layer;
    const int64_t rows = (work->chunk - 1) * work->plan.step + work->plan.rows;
    const Room room = {
        .integers = calloc(rows, (layer->padded + GAP) * sizeof *room.integers),
        .scales = calloc(rows, blocks_of(layer) * sizeof *room.scales),
        .tiles = malloc(work->plan.tiles * work->chunk * COLUMNS * sizeof *room.tiles),
        .frame = malloc(layer->width * sizeof *room.frame),
    };
    if (room.integers && room.scales && room.tiles && room.frame)
        for (int64_t first, units; (units = take_chunk(work, &first)) > 0;) do_chunk(work, first, units, &room);
    else
        atomic_store(&work->failed, 1);
    free(room.integers);
    free(room.scales);
    free(room.tiles);
    free(room.frame);
}

/* Weights (columns, terms, padded) as integers, laid out as a Layer has them, each column with a scale of its own.

Returns the largest norm of BLOCK of them. A column that is not finite gets NaN for its scale. */
float ser_weights(const float *from, int64_t columns, int64_t terms, int64_t padded, int16_t *to, float *scales) {
    int64_t largest = 0;
    for (int64_t column = 0; column < columns; column++, from += terms * padded) {
        float peak = 0;
        int finite = 1;
        for (int64_t at = 0; at < terms * padded; at++) {
            const float size = fabsf(from[at]);
            finite &= size < INFINITY;
            peak = size > peak ? size : peak;
        }
        const float scale = scales[column] = !finite ? NAN : peak > 0 ? peak / LARGEST_WEIGHT : 1;
        int16_t *panel = to + (column / COLUMNS * COLUMNS * terms * padded) + column % COLUMNS * 2;
        for (int64_t term = 0; term < terms; term++)
            for (int64_t begin = 0; begin < padded; begin += BLOCK) {
                int64_t squares = 0;
                for (int64_t at = begin; at < begin + BLOCK && at < padded; at++) {
                    const int32_t integer = finite ? (int32_t)rintf(from[term * padded + at] / scale) : 0;
                    squares += integer * integer;
                    panel[(term * padded + at) / 2 * 2 * COLUMNS + at % 2] = (int16_t)integer;
                }
                largest = squares > largest ? squares : largest;
            }
    }
    return (float)sqrt((double)largest);
}

/* Whether the processor has what a wide layer needs. */
int ser_has_wide(void) { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"); }

/* `n` output frames, by the threads that torch uses too; returns 0, or 1 where memory ran out. */
int ser_layer(const Layer *layer, const float *in, int64_t in_step, const float *residual, float *out, int64_t n,
              int threads) {
    const Plan plan = plan_of(layer);
    const int64_t units = (n + plan.outputs - 1) / plan.outputs;
    const int64_t fit = MOST_BYTES / (layer->padded * (int64_t)sizeof(int16_t) * plan.step) / ROWS * ROWS;
    const int64_t chunk = fit < ROWS ? ROWS : fit < MOST_UNITS ? fit : MOST_UNITS;
    float *zeros = calloc(layer->width, sizeof *zeros);
    if (!zeros) return 1;
    Work work = {.layer = layer, .plan = plan, .in = in, .in_step = in_step, .zeros = zeros, .residual = residual,
                 .out = out, .n = n, .units = units, .chunk = chunk, .threads = threads};
#pragma omp parallel num_threads(threads) if (threads > 1)
    do_chunks(&work);
    free(zeros);
    return atomic_load(&work.failed);
}
