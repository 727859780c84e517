// Vectors of the widest kind the machine has, exp and log on them, and small matrix products whose operands stay in the first cache.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <type_traits>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int BYTES = 64, COLUMNS = 4;  // of a vector; vectors of a row of accumulators, 6 × COLUMNS of them in registers
#elif defined(__AVX__)
constexpr int BYTES = 32, COLUMNS = 2;
#else
constexpr int BYTES = 16, COLUMNS = 2;
#endif
constexpr int ROWS = 6;

template <class T>
struct Simd {
  typedef T Vec __attribute__((vector_size(BYTES)));
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Int;
  typedef Int Mask __attribute__((vector_size(BYTES)));  // also what comparing two Vec gives
  static constexpr int LANES = BYTES / sizeof(T);
};
template <class T>
using Vec = typename Simd<T>::Vec;

template <class T>
inline T sum(const Vec<T>& v) {
  T total = 0;
  for (int l = 0; l < Simd<T>::LANES; ++l) total += v[l];
  return total;
}

// e^x for |x| ≤ 87, to 2 units in the last place: 2^n times a polynomial on [−½ log 2, ½ log 2] (Cephes' expf); NaN stays NaN.
inline Vec<float> exp(Vec<float> x) {
  using Mask = Simd<float>::Mask;
  const Mask biased = __builtin_convertvector(x * 1.44269504f + 127.5f, Mask);
  const Vec<float> n = __builtin_convertvector(biased, Vec<float>) - 127.0f;
  const Vec<float> f = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec<float> p = f * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * (f * f) + f + 1.0f;
  return p * (Vec<float>)(biased << 23);
}
inline Vec<double> exp(Vec<double> x) {  // only tests ask for it
  for (int l = 0; l < Simd<double>::LANES; ++l) x[l] = std::exp(x[l]);
  return x;
}

// log x for normal x > 0, to 2 units in the last place (Cephes' logf).
inline Vec<float> log(Vec<float> x) {
  using Mask = Simd<float>::Mask;
  Mask power = ((Mask)x >> 23) - 126;
  Vec<float> m = (Vec<float>)(((Mask)x & 0x7fffff) | 0x3f000000);  // in [½, 1)
  const Mask small = m < 0.707106781f;
  power += small;  // −1 where true
  m = (small ? m + m : m) - 1;
  const Vec<float> square = m * m, n = __builtin_convertvector(power, Vec<float>);
  Vec<float> p = m * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  return (p * m * square - n * 2.12194440e-4f - square * 0.5f) + m + n * 0.693359375f;
}
inline Vec<double> log(Vec<double> x) {
  for (int l = 0; l < Simd<double>::LANES; ++l) x[l] = std::log(x[l]);
  return x;
}

inline Vec<double> inverse(Vec<double> x) { return 1.0 / x; }
inline Vec<float> inverse(Vec<float> x) {
#if defined(__AVX512F__)
  const Vec<float> y = (Vec<float>)_mm512_rcp14_ps((__m512)x);  // one step of Newton: a third of a division's time
  return y * (2.0f - x * y);
#else
  return 1.0f / x;
#endif
}

// logistic(x) = 1 / (1 + e^−x)
template <class V>
inline V logistic(V x) {
  x = x > 80 ? V{} + 80 : x;  // NaN passes
  x = x < -80 ? V{} - 80 : x;
  return inverse(1 + exp(-x));
}

// table[index], lane by lane
inline Vec<double> lookup(const double* table, Simd<double>::Mask index) {
  Vec<double> found;
  for (int l = 0; l < Simd<double>::LANES; ++l) found[l] = table[index[l]];
  return found;
}
inline Vec<float> lookup(const float* table, Simd<float>::Mask index) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_i32gather_ps((__m512i)index, table, 4);
#else
  Vec<float> found;
  for (int l = 0; l < Simd<float>::LANES; ++l) found[l] = table[index[l]];
  return found;
#endif
}

// Runs f.template tile<rows, columns>(m, n) on tiles that cover M × N evenly, at most ROWS × COLUMNS large.
template <int M, int N, class F>
inline void with_size(int rows, int columns, const F& f, int64_t m, int64_t n) {
  if (rows == M && columns == N) return f.template tile<M, N>(m, n);
  if constexpr (N > 1) {
    if (columns < N) return with_size<M, N - 1>(rows, columns, f, m, n);
  }
  if constexpr (M > 1) return with_size<M - 1, N>(rows, columns, f, m, n);
}
template <class F>
inline void tiles(int64_t M, int64_t N, const F& f) {
  const int64_t across = (N + COLUMNS - 1) / COLUMNS, down = (M + ROWS - 1) / ROWS;
  for (int64_t j = 0; j < across; ++j)
    for (int64_t i = 0; i < down; ++i) {
      const int64_t m = M * i / down, n = N * j / across;
      with_size<ROWS, COLUMNS>(int(M * (i + 1) / down - m), int(N * (j + 1) / across - n), f, m, n);
    }
}
#define UNROLL _Pragma("GCC unroll 8") for

// A view of a matrix whose entries are scalars or vectors.
template <class X>
struct Matrix {
  X* data;
  int64_t row, column;  // strides
  X& operator()(int64_t i, int64_t j) const { return data[i * row + j * column]; }
};

// C[m,n] (+)= Σ_k A[m,k] B[k,n]; entries of B and C are vectors, those of A scalars or vectors.
template <bool ADD, class X, class V>
struct Product {
  const int64_t K;
  const Matrix<const X> A;
  const Matrix<const V> B;
  const Matrix<V> C;

  template <int M, int N>
  void tile(int64_t m0, int64_t n0) const {
    V sums[M][N];
    UNROLL(int m = 0; m < M; ++m)
      UNROLL(int n = 0; n < N; ++n) sums[m][n] = ADD ? C(m0 + m, n0 + n) : V{};
    const X* a = &A(m0, 0);
    const V* b = &B(0, n0);
    for (int64_t k = 0; k < K; ++k, a += A.column, b += B.row) {
      V row[N];
      UNROLL(int n = 0; n < N; ++n) row[n] = b[n * B.column];
      UNROLL(int m = 0; m < M; ++m) {
        const X scale = a[m * A.row];
        UNROLL(int n = 0; n < N; ++n) sums[m][n] += scale * row[n];
      }
    }
    UNROLL(int m = 0; m < M; ++m)
      UNROLL(int n = 0; n < N; ++n) C(m0 + m, n0 + n) = sums[m][n];
  }
};
template <bool ADD, class X, class V>
__attribute__((noinline)) void product(int64_t M, int64_t N, int64_t K, Matrix<const X> A, Matrix<const V> B, Matrix<V> C) {
  tiles(M, N, Product<ADD, X, V>{K, A, B, C});
}

// Aligned memory that grows and is never given back before its thread ends.
template <class T>
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  T* take(int64_t count) {
    if (count > size_) {
      std::free(data_);
      data_ = static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
      size_ = count;
    }
    return data_;
  }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};
