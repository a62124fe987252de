/* The grouped convolution over time that tells a transformer where a frame stands, by overlapping FFTs, eight channels
at a time; see ser/native.py.

Two successive blocks of frames are the real and the imaginary part of one signal: the kernel is real, so that both stay
apart. The FFT leaves its bins in reversed order of bits, in which its inverse takes them. */

#include <stdatomic.h>
#include <stdlib.h>

#include "floats.h"

enum { PAIRS = 4 }; /* of blocks at a time */

typedef struct {
    int64_t groups, channels; /* channels of a group, a multiple of LANES */
    int64_t size, step;       /* of an FFT, a power of two; frames from one block to the next */
    int64_t padding;          /* frames under the kernel before the first */
    const int16_t *spectrum;  /* (groups, size / 2 + 1, channels in, 2, channels out): real and imaginary part */
    const float *scales;      /* of each LANES of these integers, which take half as long to read as floats */
    const float *turns;       /* (size / 2, 2): cosine and sine of -2 pi k / size */
    const int32_t *bins;      /* (size,): the place of each bin */
    const float *bias;        /* (groups * channels,) */
} Position;

typedef struct {
    const Position *position;
    const float *in; /* (n, groups * channels) */
    float *out;
    int64_t n;
    atomic_long next;
    atomic_int failed;
} Work;

typedef struct {
    __m256 re, im;
} Complex;

static Complex times(Complex a, float re, float im) {
    const __m256 r = _mm256_set1_ps(re), i = _mm256_set1_ps(im);
    return (Complex){_mm256_fnmadd_ps(a.im, i, _mm256_mul_ps(a.re, r)), _mm256_fmadd_ps(a.im, r, _mm256_mul_ps(a.re, i))};
}

static Complex plus(Complex a, Complex b) { return (Complex){_mm256_add_ps(a.re, b.re), _mm256_add_ps(a.im, b.im)}; }

static Complex minus(Complex a, Complex b) { return (Complex){_mm256_sub_ps(a.re, b.re), _mm256_sub_ps(a.im, b.im)}; }

static void transform(const Position *position, Complex *x) {
    const int64_t size = position->size;
    for (int64_t half = size / 2, turn = 1; half > 0; half /= 2, turn *= 2)
        for (int64_t start = 0; start < size; start += 2 * half)
            for (int64_t at = 0; at < half; at++) {
                const float *by = position->turns + 2 * at * turn;
                Complex *one = x + start + at, *other = one + half;
                const Complex a = *one, b = *other;
                *one = plus(a, b);
                *other = times(minus(a, b), by[0], by[1]);
            }
}

static void transform_back(const Position *position, Complex *x) {
    const int64_t size = position->size;
    for (int64_t half = 1, turn = size / 2; half < size; half *= 2, turn /= 2)
        for (int64_t start = 0; start < size; start += 2 * half)
            for (int64_t at = 0; at < half; at++) {
                const float *by = position->turns + 2 * at * turn;
                Complex *one = x + start + at, *other = one + half;
                const Complex a = *one, b = times(*other, by[0], -by[1]);
                *one = plus(a, b);
                *other = minus(a, b);
            }
}

static __m256 part_of(const Position *position, int64_t at, __m256 sign) {
    const __m256i wide = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(position->spectrum + at)));
    const __m256 scale = _mm256_broadcast_ss(position->scales + at / LANES);
    return _mm256_mul_ps(_mm256_cvtepi32_ps(wide), _mm256_xor_ps(scale, sign));
}

/* Eight outputs of a bin, for `pairs` signals, a number known to the compiler. at: of the spectrum, for the first input;
-0 as `sign` takes its conjugate. in: the bin of each signal's first eight channels. */
static inline __attribute__((always_inline)) void mix(
    const Position *position, int64_t at, __m256 sign, const Complex *in, Complex *out, const int pairs) {
    const int64_t channels = position->channels, size = position->size;
    Complex sums[PAIRS];
    for (int i = 0; i < pairs; i++) sums[i].re = sums[i].im = _mm256_setzero_ps();
    for (int64_t eight = 0; eight < channels; eight += LANES, in += PAIRS * size)
        for (int lane = 0; lane < LANES; lane++, at += 2 * channels) {
            const __m256 re = part_of(position, at, _mm256_setzero_ps()), im = part_of(position, at + channels, sign);
#pragma GCC unroll 4
            for (int i = 0; i < pairs; i++) {
                const float *from = (const float *)(in + i * size) + lane;
                const __m256 a = _mm256_broadcast_ss(from), b = _mm256_broadcast_ss(from + LANES);
                sums[i].re = _mm256_fnmadd_ps(b, im, _mm256_fmadd_ps(a, re, sums[i].re));
                sums[i].im = _mm256_fmadd_ps(b, re, _mm256_fmadd_ps(a, im, sums[i].im));
            }
        }
    for (int i = 0; i < pairs; i++) out[i] = sums[i];
}

/* All bins of a group: signals (channels / LANES, PAIRS, size), mixed (channels / LANES, PAIRS): room. */
static void mix_all(const Position *position, int64_t group, Complex *signals, Complex *mixed, int64_t pairs) {
    const int64_t channels = position->channels, size = position->size;
    for (int64_t bin = 0; bin < size; bin++) {
        const int64_t same = bin <= size / 2 ? bin : size - bin;
        const int64_t here = (group * (size / 2 + 1) + same) * channels * 2 * channels;
        const __m256 sign = same == bin ? _mm256_setzero_ps() : _mm256_set1_ps(-0.0f);
        Complex *in = signals + position->bins[bin];
        for (int64_t eight = 0; eight < channels / LANES; eight++) {
            Complex *out = mixed + eight * PAIRS;
            switch (pairs) {
            case 1: mix(position, here + eight * LANES, sign, in, out, 1); break;
            case 2: mix(position, here + eight * LANES, sign, in, out, 2); break;
            case 3: mix(position, here + eight * LANES, sign, in, out, 3); break;
            default: mix(position, here + eight * LANES, sign, in, out, PAIRS);
            }
        }
        for (int64_t at = 0; at < channels / LANES * PAIRS; at++)
            if (at % PAIRS < pairs) in[at * size] = mixed[at];
    }
}

static __m256 load(const Work *work, int64_t frame, int64_t channel) {
    const int64_t dim = work->position->groups * work->position->channels;
    return frame < 0 || frame >= work->n ? _mm256_setzero_ps() : _mm256_loadu_ps(work->in + frame * dim + channel);
}

static void store(const Work *work, int64_t frame, int64_t channel, __m256 sum) {
    const int64_t dim = work->position->groups * work->position->channels;
    if (frame >= work->n) return;
    const __m256 embedding = gelu_of(_mm256_add_ps(sum, _mm256_loadu_ps(work->position->bias + channel)));
    _mm256_storeu_ps(work->out + frame * dim + channel,
                     _mm256_add_ps(embedding, _mm256_loadu_ps(work->in + frame * dim + channel)));
}

/* A group's frames from `first` on, up to PAIRS pairs of blocks. */
static void embed(const Work *work, int64_t group, int64_t first, Complex *signals, Complex *mixed) {
    const Position *position = work->position;
    const int64_t size = position->size, step = position->step, eights = position->channels / LANES;
    const int64_t left = (work->n - first + 2 * step - 1) / (2 * step), pairs = left < PAIRS ? left : PAIRS;
    for (int64_t eight = 0; eight < eights; eight++)
        for (int64_t pair = 0; pair < pairs; pair++) {
            const int64_t channel = group * position->channels + eight * LANES;
            const int64_t start = first + 2 * pair * step - position->padding;
            Complex *x = signals + (eight * PAIRS + pair) * size;
            for (int64_t at = 0; at < size; at++)
                x[at] = (Complex){load(work, start + at, channel), load(work, start + step + at, channel)};
            transform(position, x);
        }
    mix_all(position, group, signals, mixed, pairs);
    for (int64_t eight = 0; eight < eights; eight++)
        for (int64_t pair = 0; pair < pairs; pair++) {
            const int64_t channel = group * position->channels + eight * LANES, start = first + 2 * pair * step;
            Complex *x = signals + (eight * PAIRS + pair) * size;
            transform_back(position, x);
            for (int64_t at = 0; at < step; at++) {
                store(work, start + at, channel, x[at].re);
                store(work, start + step + at, channel, x[at].im);
            }
        }
}

static void embed_all(Work *work) {
    const Position *position = work->position;
    const int64_t eights = position->channels / LANES, stretch = 2 * PAIRS * position->step;
    const int64_t stretches = (work->n + stretch - 1) / stretch;
    Complex *room = aligned_alloc(64, eights * PAIRS * (position->size + 1) * sizeof *room);
    if (!room) {
        atomic_store(&work->failed, 1);
        return;
    }
    for (long task; (task = atomic_fetch_add(&work->next, 1)) < position->groups * stretches;)
        embed(work, task / stretches, task % stretches * stretch, room, room + eights * PAIRS * position->size);
    free(room);
}

/* out = in + the position embedding of in, both (n, groups * channels). Returns 0, or 1 where memory ran out. */
int ser_position(const Position *position, const float *in, float *out, int64_t n, int threads) {
    Work work = {.position = position, .in = in, .out = out, .n = n};
#pragma omp parallel num_threads(threads) if (threads > 1)
    embed_all(&work);
    return atomic_load(&work.failed);
}
