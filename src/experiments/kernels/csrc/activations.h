// exp, and the activations of a layer with their derivatives, on vectors.
#pragma once
#include "vectors.h"

// A call would cost as much as what is called, and its constants be loaded each time.
#define ALWAYS inline __attribute__((always_inline))

namespace {

typedef int32_t int_vec __attribute__((vector_size(4 * W)));

// Of a NaN and another, the second one of the two.
#if defined(__AVX2__) && !defined(__AVX512F__)
inline vec at_least(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
inline vec at_most(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
#else
inline vec at_least(vec a, vec b) { return a > b ? a : b; }
inline vec at_most(vec a, vec b) { return a < b ? a : b; }
#endif

// e^x to 2 units in the last place; what would be below 1e-38 is about that, above 1e38 likewise.
// NaN stays one. (Cephes' expf: Moshier, netlib.org/cephes, polynomial of degree 5.)
ALWAYS vec exp_of(vec x) {
#if defined(__AVX512F__)
  // of two operands, these return the second one if either is NaN
  const __m512 above = _mm512_max_ps(_mm512_set1_ps(-104), (__m512)x);
  const vec inside = (vec)_mm512_min_ps(_mm512_set1_ps(89), above);
  const __m512 n = _mm512_roundscale_ps((__m512)(inside * 1.44269504f), 8);
  vec r = inside - (vec)n * 0.693359375f;
#else
  const vec inside = at_most(splat(88.0f), at_least(splat(-87.0f), x));
  const vec shift = splat(12582912.0f);  // 1.5 * 2^23: what is added to it is rounded to integers
  const vec moved = inside * 1.44269504f + shift, n = moved - shift;
  vec r = inside - n * 0.693359375f;
#endif
  r = r - (vec)n * -2.12194440e-4f;
  vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
#if defined(__AVX512F__)
  return (vec)_mm512_scalef_ps((__m512)p, n);  // 0 and infinity where they are, and NaN
#else
  uvec power;  // the integer is in the last bits of what was moved, and NaN is in p
  memcpy(&power, &moved, sizeof power);
  power = (power << 23) + 0x3f800000;
  vec scale;
  memcpy(&scale, &power, sizeof scale);
  return p * scale;
#endif
}

// 1 / x to a unit or two in the last place, for x that are neither huge nor tiny.
ALWAYS vec inverse_of(vec x) {
#if defined(__AVX512F__)
  const vec near = (vec)_mm512_rcp14_ps((__m512)x);
  return near * (2.0f - x * near);
#else
  return 1.0f / x;
#endif
}

// erf(x), given e^(-x^2); to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
ALWAYS vec erf_of(vec x, vec e) {
  const vec size = at_least(x, -x), t = inverse_of(size * 0.3275911f + 1.0f);
  vec p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const vec y = 1.0f - p * t * e;
  return x < 0.0f ? -y : y;
}

// Each: value and slope of the function at x. A layer's padded units are zero, and stay so.
struct Gelu {
  static ALWAYS vec slope(vec x, vec& value) {
    const vec z = x * 0.70710678f, e = exp_of(-z * z);
    const vec cdf = 0.5f * erf_of(z, e) + 0.5f;
    value = x * cdf;
    return x * 0.39894228f * e + cdf;
  }
  static ALWAYS vec value(vec x) {
    vec y;
    slope(x, y);
    return y;
  }
};

struct GeluTanh {  // 0.5 x (1 + tanh u), u = sqrt(2 / pi) (x + 0.044715 x^3)
  static ALWAYS vec slope(vec x, vec& value) {
    const vec u = 0.79788456f * x * (1.0f + 0.044715f * x * x);
    const vec gate = 1.0f / (1.0f + exp_of(-2.0f * u));  // (1 + tanh u) / 2
    value = x * gate;
    return gate + x * gate * (1.0f - gate) * (1.59576912f * (1.0f + 0.134145f * x * x));
  }
  static ALWAYS vec value(vec x) {
    vec y;
    slope(x, y);
    return y;
  }
};

struct Relu {  // as torch has it, NaN stays one
  static ALWAYS vec value(vec x) { return x <= 0.0f ? splat(0.0f) : x; }
  static ALWAYS vec slope(vec x, vec& value_) {
    value_ = value(x);
    return x <= 0.0f ? splat(0.0f) : splat(1.0f);
  }
};

struct Silu {
  static ALWAYS vec slope(vec x, vec& value) {
    const vec gate = 1.0f / (1.0f + exp_of(-x));
    value = x * gate;
    return gate + value * (1.0f - gate);
  }
  static ALWAYS vec value(vec x) {
    vec y;
    slope(x, y);
    return y;
  }
};

struct Identity {
  static ALWAYS vec value(vec x) { return x; }
  static ALWAYS vec slope(vec x, vec& value) {
    value = x;
    return splat(1.0f);
  }
};

// The order of trunk.py's ACTIVATIONS.
enum Activation { GELU, GELU_TANH, RELU, SILU, IDENTITY };

template <class Run>
inline void with_activation(i64 which, Run run) {
  switch (which) {
    case GELU: return run(Gelu{});
    case GELU_TANH: return run(GeluTanh{});
    case RELU: return run(Relu{});
    case SILU: return run(Silu{});
    default: return run(Identity{});
  }
}

}  // namespace
