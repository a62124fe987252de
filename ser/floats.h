/* What the kernels share: eight floats at a time, and products of a few rows with a panel of columns. */

#pragma once

#include <immintrin.h>
#include <stdint.h>

enum { LANES = 8 };

static inline float sum_of(__m256 v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

static inline float max_of(__m256 v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}

/* tanh as a ratio of polynomials on [-9, 9] (that of Eigen), right to a few 1e-7. */
static inline __m256 tanh_of(__m256 x) {
    static const float over[] = {-2.76076847742355e-16f, 2.00018790482477e-13f, -8.60467152213735e-11f,
                                 5.12229709037114e-08f,  1.48572235717979e-05f, 6.37261928875436e-04f,
                                 4.89352455891786e-03f};
    static const float under[] = {1.19825839466702e-06f, 1.18534705686654e-04f, 2.26843463243900e-03f,
                                  4.89352518554385e-03f};
    x = _mm256_max_ps(_mm256_set1_ps(-9), _mm256_min_ps(_mm256_set1_ps(9), x)); /* in this order NaN stays NaN */
    const __m256 square = _mm256_mul_ps(x, x);
    __m256 p = _mm256_set1_ps(over[0]), q = _mm256_set1_ps(under[0]);
    for (int i = 1; i < 7; i++) p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(over[i]));
    for (int i = 1; i < 4; i++) q = _mm256_fmadd_ps(q, square, _mm256_set1_ps(under[i]));
    return _mm256_div_ps(_mm256_mul_ps(p, x), q);
}

static inline __m256 logistic_of(__m256 x) {
    const __m256 half = _mm256_set1_ps(0.5f);
    return _mm256_fmadd_ps(tanh_of(_mm256_mul_ps(x, half)), half, half);
}

/* e to the x, x at most 0, right to a few 1e-7: 2 to the whole part of x / ln 2, times a series for what is left. */
static inline __m256 exp_of(__m256 x) {
    static const float series[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                   4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    x = _mm256_max_ps(_mm256_set1_ps(-87), x); /* in this order NaN stays NaN */
    const __m256 whole = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    x = _mm256_fnmadd_ps(whole, _mm256_set1_ps(0.693359375f), x);
    x = _mm256_fnmadd_ps(whole, _mm256_set1_ps(-2.12194440e-4f), x);
    __m256 p = _mm256_set1_ps(series[0]);
    for (int i = 1; i < 6; i++) p = _mm256_fmadd_ps(p, x, _mm256_set1_ps(series[i]));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(x, x), x), _mm256_set1_ps(1));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

/* x * Phi(x), with erf as a ratio of polynomials on [-4, 4] (that of Eigen and XLA), right to a few 1e-7. */
static inline __attribute__((always_inline)) __m256 gelu_of(__m256 x) {
    static const float over[] = {-2.72614225801306e-10f, 2.77068142495902e-08f,  -2.10102402082508e-06f,
                                 -5.69250639462346e-05f, -7.34990630326855e-04f, -2.95459980854025e-03f,
                                 -1.60960333262415e-02f};
    static const float under[] = {-1.45660718464996e-05f, -2.13374055278905e-04f, -1.68282697438203e-03f,
                                  -7.37332916720468e-03f, -1.42647390514189e-02f};
    __m256 z = _mm256_mul_ps(x, _mm256_set1_ps(0.70710678f));
    z = _mm256_max_ps(_mm256_set1_ps(-4), _mm256_min_ps(_mm256_set1_ps(4), z)); /* in this order NaN stays NaN */
    const __m256 square = _mm256_mul_ps(z, z);
    __m256 p = _mm256_set1_ps(over[0]), q = _mm256_set1_ps(under[0]);
    for (int i = 1; i < 7; i++) p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(over[i]));
    for (int i = 1; i < 5; i++) q = _mm256_fmadd_ps(q, square, _mm256_set1_ps(under[i]));
    const __m256 erf = _mm256_div_ps(_mm256_mul_ps(p, z), q), half = _mm256_mul_ps(x, _mm256_set1_ps(0.5f));
    return _mm256_fmadd_ps(half, erf, half);
}

enum { GROUP = 4, PANEL = 3 }; /* a tile of sums: utterances, and vectors of columns, twelve registers */

/* sums[i] += from[i] (k,) @ panel (k, PANEL * LANES), for `n` rows, a number known to the compiler. */
static inline __attribute__((always_inline)) void add_products(
    const float *const *from, const float *panel, int64_t k, __m256 sums[GROUP][PANEL], const int n) {
    __m256 sum[GROUP][PANEL];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 3
        for (int j = 0; j < PANEL; j++) sum[i][j] = sums[i][j];
    for (int64_t at = 0; at < k; at++, panel += PANEL * LANES) {
        __m256 w[PANEL];
#pragma GCC unroll 3
        for (int j = 0; j < PANEL; j++) w[j] = _mm256_load_ps(panel + j * LANES);
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) {
            const __m256 by = _mm256_broadcast_ss(from[i] + at);
#pragma GCC unroll 3
            for (int j = 0; j < PANEL; j++) sum[i][j] = _mm256_fmadd_ps(by, w[j], sum[i][j]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 3
        for (int j = 0; j < PANEL; j++) sums[i][j] = sum[i][j];
}

static __attribute__((noinline, unused)) void add_group(
    const float *const *from, const float *panel, int64_t k, __m256 sums[GROUP][PANEL], int64_t n) {
    switch (n) {
    case 1: add_products(from, panel, k, sums, 1); break;
    case 2: add_products(from, panel, k, sums, 2); break;
    case 3: add_products(from, panel, k, sums, 3); break;
    default: add_products(from, panel, k, sums, GROUP);
    }
}
