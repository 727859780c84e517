// Products of bfloat16 nodes with float32 sums, where the processor has them: on tiles of 16 × 16 sums (AMX), or in vectors.
//
// Nodes are packed two by two along their width, a pair in 32 bits, so that a vector of pairs is as wide as one of sums.
#pragma once

#include "simd.h"

#include <algorithm>

#if defined(__AVX512F__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#define TILES 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(TILES) || defined(__AVX512BF16__)
#define NARROW 1

// As `Wide` in cross.cpp.
struct Narrow {
  typedef uint32_t Entry;  // two bfloat16, the first in the lower half
  typedef Entry Entries __attribute__((vector_size(BYTES)));
  typedef Vec<float> V;
  static constexpr int PER = 2;

  // e^x to 4e-6 of it for |x| ≤ 80, beside which bfloat16 is coarse: 2^n times a polynomial on [−½, ½]; NaN stays NaN.
  static V exp(V x) {
    const __m512 to_base_2 = _mm512_set1_ps(1.44269504f), y = _mm512_mul_ps((__m512)x, to_base_2);
    const __m512 n = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const V f = (V)_mm512_fmsub_ps((__m512)x, to_base_2, n);
    V p = f * 9.570102207e-3f + 5.591785908e-2f;
    p = p * f + 2.402474433e-1f;
    p = p * f + 6.931217909e-1f;
    p = p * f + 9.999992847e-1f;
    return (V)_mm512_scalef_ps((__m512)p, n);
  }

  // 1 / (1 + e^−x) to 6e-5 of it
  static V logistic(V x) {
    const __m512 most = _mm512_set1_ps(80), within = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), most), (__m512)x);  // NaN passes
    return (V)_mm512_rcp14_ps((__m512)(1 + exp(-(V)_mm512_min_ps(most, within))));
  }

#if defined(TILES)
  static constexpr int TALL = 48, STEP = 16;

  // Linux lends tiles to whoever asks, for all threads of the process.
  static bool allowed() {
    constexpr long REQUEST = 0x1023, DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, REQUEST, DATA) == 0;
    return granted;
  }

  // Tiles of a thread, of 64 bytes a row: sums of up to three tiles of nodes in 0-2, these nodes in 3-5, vectors in 6.
  class State {
   public:
    ~State() { _tile_release(); }
    void set_height(int height) {  // of sums and nodes
      if (shape_.rows[0] == height) return;
      for (int tile = 0; tile < 7; ++tile) shape_.bytes[tile] = 64, shape_.rows[tile] = tile < 6 ? height : STEP;
      read(&shape_);
      _tile_loadconfig(&shape_);
    }

   private:
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape_;
  };

  static void product(State& state, int64_t M, int64_t N, int64_t K, const Entry* A, const V* B, V* C) {
    const int64_t count = (M + 15) / 16, height = (M + count - 1) / count;  // of tiles of nodes; the last ones overlap
    state.set_height(height);
    read(A), read(B);
    const int64_t second = std::min(height, M - height), third = M - height;
    if (count == 1) return columns<1>(N, K, A, 0, 0, B, C);
    if (count == 2) return columns<2>(N, K, A, third, 0, B, C);
    columns<3>(N, K, A, second, third, B, C);
  }

  template <int COUNT>
  static void columns(int64_t N, int64_t K, const Entry* A, int64_t second, int64_t third, const V* B, V* C) {
    const size_t wide = K * sizeof(Entry), across = N * sizeof(V);
    for (int64_t n = 0; n < N; ++n) {
      _tile_zero(0);
      if constexpr (COUNT > 1) _tile_zero(1);
      if constexpr (COUNT > 2) _tile_zero(2);
      for (int64_t k = 0; k < K; k += STEP) {
        if (n == 0 || K > STEP) {
          _tile_loadd(3, A + k, wide);
          if constexpr (COUNT > 1) _tile_loadd(4, A + second * K + k, wide);
          if constexpr (COUNT > 2) _tile_loadd(5, A + third * K + k, wide);
        }
        _tile_loadd(6, B + k * N + n, across);
        _tile_dpbf16ps(0, 3, 6);
        if constexpr (COUNT > 1) _tile_dpbf16ps(1, 4, 6);
        if constexpr (COUNT > 2) _tile_dpbf16ps(2, 5, 6);
      }
      _tile_stored(0, C + n, across);
      if constexpr (COUNT > 1) _tile_stored(1, C + second * N + n, across);
      if constexpr (COUNT > 2) _tile_stored(2, C + third * N + n, across);
    }
  }

  // Tells gcc, which does not know it of these instructions, that what is here is going to be read.
  static void read(const void* memory) { asm volatile("" ::"r"(memory) : "memory"); }

#else
  static constexpr int TALL = ROWS, STEP = 1;
  static bool allowed() { return true; }
  struct State {};

  static void product(State&, int64_t M, int64_t N, int64_t K, const Entry* A, const V* B, V* C) {
    tiles(M, N, Blocks{N, K, A, B, C});
  }

  struct Blocks {
    const int64_t N, K;
    const Entry* A;
    const V *B;
    V* C;

    template <int M, int W>
    void tile(int64_t m0, int64_t n0) const {
      __m512 sums[M][W];
      UNROLL(int m = 0; m < M; ++m)
        UNROLL(int n = 0; n < W; ++n) sums[m][n] = _mm512_setzero_ps();
      for (int64_t k = 0; k < K; ++k) {
        __m512bh row[W];
        UNROLL(int n = 0; n < W; ++n) row[n] = (__m512bh)B[k * N + n0 + n];
        UNROLL(int m = 0; m < M; ++m) {
          const __m512bh node = (__m512bh)(Entries{} + A[(m0 + m) * K + k]);
          UNROLL(int n = 0; n < W; ++n) sums[m][n] = _mm512_dpbf16_ps(sums[m][n], node, row[n]);
        }
      }
      UNROLL(int m = 0; m < M; ++m)
        UNROLL(int n = 0; n < W; ++n) C[(m0 + m) * N + n0 + n] = (V)sums[m][n];
    }
  };
#endif
};

#endif
