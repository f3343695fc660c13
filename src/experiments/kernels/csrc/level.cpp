// The best level of this processor: 0 baseline, 1 AVX2, 2 AVX-512, 3 AVX-512 with bfloat16 products.
extern "C" __attribute__((visibility("default"))) int processor_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return 1;
  return __builtin_cpu_supports("avx512bf16") ? 3 : 2;
#else
  return 0;
#endif
}

// Whether its products of bfloat16 take more time than those of float32: Intel's do outside of AMX.
extern "C" __attribute__((visibility("default"))) int bf16_is_slow() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_is("intel") ? 1 : 0;
#else
  return 0;
#endif
}
