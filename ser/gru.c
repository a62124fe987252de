/* The recurrence of a bidirectional GRU on a processor with AVX2, in floats; see ser/native.py and ser/gru.py.

ser_gru: of a few utterances, one after the other, for an answer.
ser_gru_forward, ser_gru_back: of a batch, all its utterances a step, with what the gradient needs, and the gradient.

Gates stand in the order reset, update, new; `units` is a multiple of LANES. The frames of a batch lie one utterance
after the other, each with its forward and then its backward direction: a row is one direction of a frame. */

#include <string.h>

#include "floats.h"

/* sums (width,) = bias + state (units,) @ weight (units, width); width is a multiple of 8 * LANES. */
static void step_products(
    const float *state, const float *weight, const float *bias, int64_t units, int64_t width, float *sums) {
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

/* A batch: its utterances from the longest to the shortest, where each begins and how many frames it has. */
typedef struct {
    const int64_t *starts, *lengths;
    int64_t batch, units;
    int backward; /* the direction */
} Batch;

/* Of the batch's `step`-th frame in its direction, the row of an utterance. */
static int64_t row_of(const Batch *batch, int64_t utterance, int64_t step) {
    const int64_t length = batch->lengths[utterance];
    return 2 * (batch->starts[utterance] + (batch->backward ? length - 1 - step : step)) + batch->backward;
}

/* Utterances that have a frame at `step`, among the first `most`. */
static int64_t lasting(const Batch *batch, int64_t step, int64_t most) {
    while (most > 0 && batch->lengths[most - 1] <= step) most--;
    return most;
}

/* One direction of `ser_gru_forward`. */
static void forward_of(const Batch *batch, const float *gates, float *products, float *fresh, float *states,
                       const float *weight, const float *bias) {
    const int64_t units = batch->units;
    int64_t n = batch->batch;
    for (int64_t step = 0; (n = lasting(batch, step, n)) > 0; step++)
        for (int64_t unit = 0; unit < units; unit += LANES)
            for (int64_t first = 0; first < n; first += GROUP) {
                const int64_t group = n - first < GROUP ? n - first : GROUP;
                const float *before[GROUP];
                __m256 sums[GROUP][PANEL];
                for (int64_t i = 0; i < group; i++) {
                    before[i] = step ? states + row_of(batch, first + i, step - 1) * units : NULL;
                    sums[i][0] = sums[i][1] = _mm256_setzero_ps();
                    sums[i][2] = _mm256_loadu_ps(bias + unit);
                    const int64_t at = row_of(batch, first + i, step) * units, gate = 3 * at + unit;
                    for (int part = 0; part < 3; part++) { /* on the way from memory while the products are computed */
                        __builtin_prefetch(gates + gate + part * units);
                        __builtin_prefetch(products + gate + part * units, 1);
                    }
                    __builtin_prefetch(fresh + at + unit, 1);
                    __builtin_prefetch(states + at + unit, 1);
                }
                if (step) add_group(before, weight + unit * units * PANEL, units, sums, group);
                for (int64_t i = 0; i < group; i++) {
                    const int64_t row = row_of(batch, first + i, step);
                    const float *gate = gates + row * 3 * units + unit;
                    float *product = products + row * 3 * units + unit;
                    const __m256 reset = logistic_of(_mm256_add_ps(_mm256_loadu_ps(gate), sums[i][0]));
                    const __m256 update = logistic_of(_mm256_add_ps(_mm256_loadu_ps(gate + units), sums[i][1]));
                    const __m256 new = tanh_of(_mm256_fmadd_ps(reset, sums[i][2], _mm256_loadu_ps(gate + 2 * units)));
                    const __m256 old = step ? _mm256_loadu_ps(before[i] + unit) : _mm256_setzero_ps();
                    _mm256_storeu_ps(product, reset);
                    _mm256_storeu_ps(product + units, update);
                    _mm256_storeu_ps(product + 2 * units, sums[i][2]);
                    _mm256_storeu_ps(fresh + row * units + unit, new);
                    const __m256 state = _mm256_fmadd_ps(update, _mm256_sub_ps(old, new), new);
                    _mm256_storeu_ps(states + row * units + unit, state);
                }
            }
}

/* One direction of `ser_gru_back`. later (batch, padded units): what the states' gradients get from the step after. */
static void back_of(const Batch *batch, const float *products, const float *fresh, const float *states,
                    const float *d_states, float *d_gates, float *d_hidden, float *before, const float *weight,
                    float *later) {
    const int64_t units = batch->units, wide = PANEL * LANES, padded = (units + wide - 1) / wide * wide;
    const __m256 one = _mm256_set1_ps(1);
    memset(later, 0, batch->batch * padded * sizeof *later);
    for (int64_t step = batch->lengths[0] - 1; step >= 0; step--) {
        const int64_t n = lasting(batch, step, batch->batch);
        for (int64_t i = 0; i < n; i++) {
            const int64_t row = row_of(batch, i, step);
            const float *product = products + row * 3 * units;
            const float *old = step ? states + row_of(batch, i, step - 1) * units : NULL;
            float *d_gate = d_gates + row * 3 * units;
            for (int64_t unit = 0; unit < units; unit += LANES) {
                float *carried = later + i * padded + unit;
                const __m256 d = _mm256_add_ps(_mm256_loadu_ps(d_states + row * units + unit), _mm256_loadu_ps(carried));
                const __m256 reset = _mm256_loadu_ps(product + unit);
                const __m256 update = _mm256_loadu_ps(product + units + unit);
                const __m256 hidden = _mm256_loadu_ps(product + 2 * units + unit);
                const __m256 new = _mm256_loadu_ps(fresh + row * units + unit);
                const __m256 state = _mm256_loadu_ps(states + row * units + unit);
                const __m256 kept = _mm256_mul_ps(d, _mm256_sub_ps(one, update));
                const __m256 to_new = _mm256_mul_ps(kept, _mm256_fnmadd_ps(new, new, one));
                const __m256 to_hidden = _mm256_mul_ps(to_new, reset);
                const __m256 to_reset = _mm256_mul_ps(_mm256_mul_ps(to_hidden, hidden), _mm256_sub_ps(one, reset));
                _mm256_storeu_ps(d_gate + unit, to_reset);
                _mm256_storeu_ps(d_gate + units + unit, _mm256_mul_ps(kept, _mm256_sub_ps(state, new)));
                _mm256_storeu_ps(d_gate + 2 * units + unit, to_new);
                _mm256_storeu_ps(d_hidden + row * units + unit, to_hidden);
                const __m256 was = old ? _mm256_loadu_ps(old + unit) : _mm256_setzero_ps();
                _mm256_storeu_ps(before + row * units + unit, was);
                _mm256_storeu_ps(carried, _mm256_mul_ps(d, update));
            }
        }
        if (!step) break;
        for (int64_t gate = 0; gate < 3; gate++) /* a gate's panel of weights stays in the first cache */
            for (int64_t column = 0; column < padded; column += wide)
                for (int64_t first = 0; first < n; first += GROUP) {
                    const int64_t group = n - first < GROUP ? n - first : GROUP;
                    const float *from[GROUP];
                    __m256 sums[GROUP][PANEL];
                    for (int64_t i = 0; i < group; i++) {
                        const int64_t row = row_of(batch, first + i, step);
                        from[i] = gate < 2 ? d_gates + (row * 3 + gate) * units : d_hidden + row * units;
                        for (int j = 0; j < PANEL; j++)
                            sums[i][j] = _mm256_loadu_ps(later + (first + i) * padded + column + j * LANES);
                    }
                    add_group(from, weight + (gate * padded + column) * units, units, sums, group);
                    for (int64_t i = 0; i < group; i++)
                        for (int j = 0; j < PANEL; j++)
                            _mm256_storeu_ps(later + (first + i) * padded + column + j * LANES, sums[i][j]);
                }
    }
}

/* Of a batch whose utterances are sorted by length, the longest first; starts, lengths (batch,).

gates (rows, 3 * units): input projections with the biases of the products, but for the last gate's. products, alike:
get the reset gate, the update gate and the product that is reset. fresh (rows, units): gets the new gate.
states (rows, units). weight (2, units / LANES, units, 3, LANES), bias (2, units) of the product that is reset. */
void ser_gru_forward(const float *gates, float *products, float *fresh, float *states, const float *weight,
                     const float *bias, const int64_t *starts, const int64_t *lengths, int64_t batch, int64_t units,
                     int threads) {
#pragma omp parallel for num_threads(2) if (threads > 1)
    for (int way = 0; way < 2; way++) {
        const Batch one = {starts, lengths, batch, units, way};
        forward_of(&one, gates, products, fresh, states, weight + way * 3 * units * units, bias + way * units);
    }
}

/* Its gradient: from d_states (rows, units) to d_gates (rows, 3 * units), of the input projections, and d_hidden
(rows, units), of the product that is reset. before (rows, units): gets the state before each.

weight (2, 3, panels, units, 24): the columns padded with zeros to a multiple of 24. later (2, batch, padded units). */
void ser_gru_back(const float *products, const float *fresh, const float *states, const float *d_states,
                  float *d_gates, float *d_hidden, float *before, const float *weight, float *later,
                  const int64_t *starts, const int64_t *lengths, int64_t batch, int64_t units, int threads) {
    const int64_t wide = PANEL * LANES, padded = (units + wide - 1) / wide * wide;
#pragma omp parallel for num_threads(2) if (threads > 1)
    for (int way = 0; way < 2; way++) {
        const Batch one = {starts, lengths, batch, units, way};
        back_of(&one, products, fresh, states, d_states, d_gates, d_hidden, before,
                weight + way * 3 * padded * units, later + way * batch * padded);
    }
}
