/* Self-attention over the frames of one utterance, in floats; see ser/native.py.

A task is a head and a stretch of queries. Keys and values of the head are laid out in panels of columns first; then
four queries at a time: their scores over all keys, the softmax, and the mean of the values. */

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "floats.h"

enum { QUERIES = 100, WIDE = PANEL * LANES };

typedef struct {
    const float *in; /* (n, 3, heads, dim): queries, keys, values */
    float *out;      /* (n, heads, dim) */
    int64_t n, heads, dim;
    atomic_long next;
    atomic_int failed;
} Attention;

/* A thread's own. */
typedef struct {
    float *keys;   /* (panels of keys, dim, WIDE) */
    float *values; /* (panels of dim, n, WIDE) */
    float *scores; /* (GROUP, keys, a multiple of WIDE) */
} Rooms;

static int64_t up(int64_t n) { return (n + WIDE - 1) / WIDE * WIDE; }

static const float *part_of(const Attention *work, int64_t frame, int which, int64_t head) {
    return work->in + ((frame * 3 + which) * work->heads + head) * work->dim;
}

static void lay_out(const Attention *work, int64_t head, const Rooms *rooms) {
    for (int64_t frame = 0; frame < work->n; frame++) {
        const float *key = part_of(work, frame, 1, head), *value = part_of(work, frame, 2, head);
        float *to = rooms->keys + frame / WIDE * WIDE * work->dim + frame % WIDE;
        for (int64_t at = 0; at < work->dim; at++) to[at * WIDE] = key[at];
        for (int64_t at = 0; at < work->dim; at += LANES)
            _mm256_store_ps(rooms->values + (at / WIDE * work->n + frame) * WIDE + at % WIDE, _mm256_loadu_ps(value + at));
    }
}

/* (rows, columns) = from (rows, k) @ panels (columns / WIDE, k, WIDE), for up to GROUP rows. */
static void products(const float *const *from, const float *panels, int64_t k, int64_t columns, int64_t rows,
                     float *const *to) {
    for (int64_t column = 0; column < columns; column += WIDE, panels += k * WIDE) {
        __m256 sums[GROUP][PANEL];
        for (int i = 0; i < GROUP; i++)
            for (int j = 0; j < PANEL; j++) sums[i][j] = _mm256_setzero_ps();
        add_group(from, panels, k, sums, rows);
        for (int64_t i = 0; i < rows; i++)
            for (int j = 0; j < PANEL && column + j * LANES < columns; j++)
                _mm256_storeu_ps(to[i] + column + j * LANES, sums[i][j]);
    }
}

/* The softmax of `n` scores times `scale`, in place, but for the division: returns what to divide by. */
static float exponentials(float *scores, int64_t n, float scale) {
    __m256 most = _mm256_set1_ps(-INFINITY), sums = _mm256_setzero_ps();
    for (int64_t at = n; at < up(n); at++) scores[at] = -INFINITY;
    for (int64_t at = 0; at < up(n); at += LANES) most = _mm256_max_ps(_mm256_loadu_ps(scores + at), most);
    const __m256 shift = _mm256_set1_ps(max_of(most)), by = _mm256_set1_ps(scale);
    for (int64_t at = 0; at < up(n); at += LANES) {
        const __m256 e = exp_of(_mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(scores + at), shift), by));
        _mm256_storeu_ps(scores + at, e);
        sums = _mm256_add_ps(sums, e);
    }
    return sum_of(sums);
}

static void attend(const Attention *work, int64_t head, int64_t first, const Rooms *rooms) {
    const int64_t n = work->n, dim = work->dim, last = first + QUERIES < n ? first + QUERIES : n;
    for (; first < last; first += GROUP) {
        const int64_t rows = last - first < GROUP ? last - first : GROUP;
        const float *queries[GROUP];
        float *scores[GROUP], *out[GROUP];
        for (int64_t i = 0; i < rows; i++) {
            queries[i] = part_of(work, first + i, 0, head);
            scores[i] = rooms->scores + i * up(n);
            out[i] = work->out + ((first + i) * work->heads + head) * dim;
        }
        products(queries, rooms->keys, dim, up(n), rows, scores);
        float sums[GROUP];
        for (int64_t i = 0; i < rows; i++) sums[i] = exponentials(scores[i], n, 1 / sqrtf(dim));
        products((const float *const *)scores, rooms->values, n, dim, rows, out);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t at = 0; at < dim; at += LANES)
                _mm256_storeu_ps(out[i] + at, _mm256_div_ps(_mm256_loadu_ps(out[i] + at), _mm256_set1_ps(sums[i])));
    }
}

static void attend_all(Attention *work) {
    const int64_t n = work->n, dim = work->dim, pieces = (n + QUERIES - 1) / QUERIES;
    const size_t floats[3] = {up(n) * dim, up(dim) * n, GROUP * up(n)};
    float *room = aligned_alloc(64, (((floats[0] + floats[1] + floats[2]) * sizeof *room) + 63) / 64 * 64);
    if (!room) {
        atomic_store(&work->failed, 1);
        return;
    }
    const Rooms rooms = {room, room + floats[0], room + floats[0] + floats[1]};
    memset(room, 0, (floats[0] + floats[1]) * sizeof *room);
    int64_t laid_out = -1;
    for (long task; (task = atomic_fetch_add(&work->next, 1)) < work->heads * pieces;) {
        const int64_t head = task / pieces;
        if (head != laid_out) lay_out(work, head, &rooms);
        laid_out = head;
        attend(work, head, task % pieces * QUERIES, &rooms);
    }
    free(room);
}

/* From queries, keys and values (n, 3, heads, dim) to (n, heads, dim); dim is a multiple of LANES. Returns 0, or 1
where memory ran out. */
int ser_attention(const float *in, float *out, int64_t n, int64_t heads, int64_t dim, int threads) {
    Attention work = {.in = in, .out = out, .n = n, .heads = heads, .dim = dim};
#pragma omp parallel num_threads(threads) if (threads > 1)
    attend_all(&work);
    return atomic_load(&work.failed);
}
