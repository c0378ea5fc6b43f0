// Parts of DwiseNeuro's core for inference on the CPU. Videos are (windows, frames, rows, columns, channels), images
// (images, rows, columns, channels); the number of channels is a multiple of 16. Numbers are stored as float32 or
// bfloat16, arithmetic is float32. No result depends on the number of threads.
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr long INPUTS = 5;
constexpr long PIXELS = 4;  // of a row, filtered together
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

inline Floats load(const float* from) {
    Floats x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline Floats load(const uint16_t* from) {
    Halves x;
    std::memcpy(&x, from, sizeof x);
    return (Floats)(__builtin_convertvector(x, Words) << 16);
}

inline void store(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }

inline void store(uint16_t* to, Floats x) {  // to the nearest, ties to even
#ifdef __AVX512BF16__
    const auto half = _mm512_cvtneps_pbh((__m512)x);
#else
    const Words bits = (Words)x;
    const Halves half = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);
#endif
    std::memcpy(to, &half, sizeof half);
}

// 1 / x for normal x, relative error below 2e-7: an estimate of the processor and a step of Newton's method.
inline Floats reciprocal(Floats x) {
#if defined(__AVX512F__)
    const Floats estimate = (Floats)_mm512_rcp14_ps((__m512)x);
#elif defined(__AVX__)
    const Floats estimate = (Floats)_mm256_rcp_ps((__m256)x);
#else
    return 1.0f / x;
#endif
#ifdef __AVX__
    return estimate * (2.0f - x * estimate);
#endif
}

// x / (1 + exp(-x)), relative error below 1e-6, and 0 below -70, since what follows would reach denormal numbers, which
// are slow. exp is a power of two times a polynomial.
inline Floats silu(Floats x) {
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    constexpr float SCALE = -1.44269504088896341f;
    const Floats limit = Floats{} + 70.0f;
    Floats y = x < limit ? x : limit;
    y = y > -limit ? y : -limit;
    const Floats shifted = y * SCALE + MAGIC;
    const Floats f = y * SCALE - (shifted - MAGIC);
    Floats p = f * 0.0013276466634124517f + 0.009675541892647743f;
    p = p * f + 0.05550713464617729f;
    p = p * f + 0.24022120237350464f;
    p = p * f + 0.6931469440460205f;
    p = p * f + 1.0f;
    const Floats factor = reciprocal((Floats)((Words)p + ((Words)shifted << 23)) + 1.0f);
    return x * (x < -limit ? Floats{} : factor);
}

// The first block's wide images: SiLU of a map of the five inputs, plus what belongs to the row and to the column.
// x is (windows, 5, frames, rows, columns), of which images `first` to `last` - 1 are taken.
template <typename Number>
void widen(const float* x, const float* weight, const float* by_row, const float* by_column, Number* y, long first,
           long last, long frames, long rows, long columns, long channels, int threads) {
    const long plane = frames * rows * columns;
#pragma omp parallel for num_threads(threads)
    for (long row = first * rows; row < last * rows; row++) {
        const long window = row / (frames * rows), place = row % (frames * rows);
        const float* from = x + window * INPUTS * plane + place * columns;
        const float* along = by_row + place * channels;
        for (long column = 0; column < columns; column++) {
            float inputs[INPUTS];
            for (long i = 0; i < INPUTS; i++) inputs[i] = from[i * plane + column];
            Number* to = y + ((row - first * rows) * columns + column) * channels;
            for (long c = 0; c < channels; c += LANES) {
                Floats sum = load(along + c) + load(by_column + column * channels + c);
                for (long i = 0; i < INPUTS; i++) sum += load(weight + i * channels + c) * inputs[i];
                store(to + c, silu(sum));
            }
        }
    }
}

// Bias and SiLU, in place.
template <typename Number>
void activate(Number* x, const float* bias, long pixels, long channels, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long pixel = 0; pixel < pixels; pixel++) {
        Number* at = x + pixel * channels;
        for (long c = 0; c < channels; c += LANES) store(at + c, silu(load(at + c) + load(bias + c)));
    }
}

// One pixel of a filter of any size: `taps` are its inputs, zeros where they lie outside the image.
template <typename Number>
void filter(const Number* const* taps, const float* weight, long count, const float* bias, Number* y, long channels) {
    for (long c = 0; c < channels; c += LANES) {
        Floats sum = load(bias + c);
        for (long k = 0; k < count; k++) sum += load(taps[k] + c) * load(weight + k * channels + c);
        store(y + c, silu(sum));
    }
}

// PIXELS of a row by a filter of three rows and columns, together, so that each input and weight is loaded once for all
// of them. `taps` are the inputs of each row from left to right; y has `step` numbers from pixel to pixel.
template <int STRIDE, typename Number>
void filter_row(const Number* const* taps, const float* weight, const float* bias, Number* y, long step,
                long channels) {
    constexpr int WIDTH = (PIXELS - 1) * STRIDE + 3;
    for (long c = 0; c < channels; c += LANES) {
        Floats sums[PIXELS];
        for (int p = 0; p < PIXELS; p++) sums[p] = load(bias + c);
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++) {
            Floats inputs[WIDTH];
            for (int j = 0; j < WIDTH; j++) inputs[j] = load(taps[i * WIDTH + j] + c);
            for (int j = 0; j < 3; j++) {
                const Floats w = load(weight + (i * 3 + j) * channels + c);
                for (int p = 0; p < PIXELS; p++) sums[p] += inputs[p * STRIDE + j] * w;
            }
        }
        for (int p = 0; p < PIXELS; p++) store(y + p * step + c, silu(sums[p]));
    }
}

// Depth-wise filter over rows and columns of images `first` and following, zeros around the image, bias, SiLU. The
// result is part of a video, (windows, rows, columns, frames, channels).
template <typename Number>
void space(const Number* x, const float* weight, const float* bias, Number* y, long first, long images, long frames,
           long height, long width, long channels, long side, long stride, int threads) {
    const long rows = (height + stride - 1) / stride, columns = (width + stride - 1) / stride, pad = side / 2;
    const long step = frames * channels, most = side == 3 && stride <= 2 ? PIXELS : 1;
    const std::vector<Number> zeros(channels);
#pragma omp parallel for num_threads(threads)
    for (long line = 0; line < images * rows; line++) {
        const Number* image = x + line / rows * height * width * channels;
        const long row = line % rows, number = first + line / rows;
        Number* to = y + ((number / frames * rows + row) * columns * frames + number % frames) * channels;
        for (long column = 0; column < columns;) {
            const long pixels = columns - column < most ? 1 : most, across = (pixels - 1) * stride + side;
            const Number* taps[side * across];
            for (long i = 0; i < side; i++)
                for (long j = 0; j < across; j++) {
                    const long v = row * stride - pad + i, h = column * stride - pad + j;
                    const bool inside = v >= 0 && v < height && h >= 0 && h < width;
                    taps[i * across + j] = inside ? image + (v * width + h) * channels : zeros.data();
                }
            if (pixels == 1)
                filter(taps, weight, side * side, bias, to + column * step, channels);
            else if (stride == 1)
                filter_row<1>(taps, weight, bias, to + column * step, step, channels);
            else
                filter_row<2>(taps, weight, bias, to + column * step, step, channels);
            column += pixels;
        }
    }
}

// Depth-wise filter over the frames of a video (parts, pixels, frames, channels), zeros before the first and after the
// last, bias, SiLU; in place where `keep` is set. The pixels of each part are added up: sums is (parts, frames,
// channels), zero before.
template <int TAPS, typename Number>
void time(Number* x, const float* weight, const float* bias, float* sums, long parts, long pixels, long frames,
          long channels, long length, int keep, int threads) {
    const int taps = TAPS ? TAPS : length, pad = taps / 2;
#pragma omp parallel for num_threads(threads)
    for (long part = 0; part < parts; part++) {
        Floats inputs[frames + taps - 1];
        for (long k = 0; k < frames + taps - 1; k++) inputs[k] = Floats{};
        for (long pixel = part * pixels; pixel < (part + 1) * pixels; pixel++)
            for (long c = 0; c < channels; c += LANES) {
                Number* at = x + pixel * frames * channels + c;
                for (long frame = 0; frame < frames; frame++) inputs[pad + frame] = load(at + frame * channels);
                for (long frame = 0; frame < frames; frame++) {
                    Floats sum = load(bias + c);
                    for (int k = 0; k < taps; k++) sum += inputs[frame + k] * load(weight + k * channels + c);
                    sum = silu(sum);
                    if (keep) store(at + frame * channels, sum);
                    float* total = sums + (part * frames + frame) * channels + c;
                    store(total, load(total) + sum);
                }
            }
    }
}

}  // namespace

#define EXPORT(NAME, NUMBER)                                                                                           \
    void widen_##NAME(const float* x, const float* w, const float* by_row, const float* by_column, NUMBER* y,          \
                      long first, long last, long f, long h, long v, long c, int t) {                                  \
        widen(x, w, by_row, by_column, y, first, last, f, h, v, c, t);                                                 \
    }                                                                                                                  \
    void activate_##NAME(NUMBER* x, const float* b, long n, long c, int t) { activate(x, b, n, c, t); }                \
    void space_##NAME(const NUMBER* x, const float* w, const float* b, NUMBER* y, long i, long n, long f, long h,      \
                      long v, long c, long k, long s, int t) {                                                         \
        space(x, w, b, y, i, n, f, h, v, c, k, s, t);                                                                  \
    }                                                                                                                  \
    void time_##NAME(NUMBER* x, const float* w, const float* b, float* sums, long n, long p, long f, long c, long k,   \
                     long keep, int t) {                                                                               \
        (k == 5 ? time<5, NUMBER> : time<0, NUMBER>)(x, w, b, sums, n, p, f, c, k, keep, t);                           \
    }

extern "C" {
EXPORT(float32, float)
EXPORT(bfloat16, uint16_t)
}
