// Decode attention over the pages of a pool on a CPU, and the writing of pages; `native.py` compiles it and says what
// the arguments are.
//
// The pages of all rows are cut into equal shares, one a thread: a row of many tokens is worked on by several. Each
// thread keeps a running softmax of the row it is in; the rows that a cut went through are joined at the end. Every
// key and value is read once, and nothing but the rows' own sums is written.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include <omp.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
constexpr int MOST_QUERIES = REGISTERS / 4;  // that meet a vector of keys or values at once
constexpr int64_t CHUNK = 8;                 // pages between two looks at the highest logit
constexpr int64_t LEAST_WORK = 1 << 15;      // keys and values that are worth waking another thread for
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

Vec &at(float *place) { return *reinterpret_cast<Vec *>(place); }

uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

// ---- what a pool may hold: how a vector of it is read as floats, and how a float is rounded to it

struct BFloat16 {
    uint16_t bits;
    BFloat16 &operator=(float x) {
        const uint32_t own = bits_of(x);
        bits = x != x ? 0x7FC0 : (own + 0x7FFF + (own >> 16 & 1)) >> 16;
        return *this;
    }
};

struct Float16 {
    uint16_t bits;
    Float16 &operator=(float x) {
        const uint32_t own = bits_of(x), size = own & 0x7FFFFFFF;
        uint32_t half;
        if (size > 0x7F800000) half = 0x7E00;
        else if (size >= 0x477FF000) half = 0x7C00;                                               // infinity
        else if (size < 0x38800000) half = bits_of(std::fabs(x) + 0.5f) - 0x3F000000;             // subnormal
        else half = (size - 0x38000000 + 0xFFF + (size >> 13 & 1)) >> 13;
        bits = half | (own >> 16 & 0x8000);
        return *this;
    }
};

Words words(const void *from) {
#if defined(__AVX512F__)  // one instruction, where compilers make five of the general form
    return reinterpret_cast<Words>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i *>(from))));
#elif defined(__AVX2__)
    return reinterpret_cast<Words>(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i *>(from))));
#else
    return __builtin_convertvector(*reinterpret_cast<const Halves *>(from), Words);
#endif
}

Vec load(const float *from) { return *reinterpret_cast<const Vec *>(from); }
Vec load(const BFloat16 *from) { return reinterpret_cast<Vec>(words(from) << 16); }
Vec load(const Float16 *from) {
    const Words own = words(from), size = (own & 0x7FFF) << 13;
    const Vec scaled = reinterpret_cast<Vec>(size) * 0x1p112f;  // subnormal halves become normal on the way
    const Words finite = reinterpret_cast<Words>(scaled);
    return reinterpret_cast<Vec>((scaled >= 65536.0f ? size | 0x7F800000 : finite) | (own & 0x8000) << 16);
}

// ---- arithmetic

// 2 to the power of each lane, to a relative error of 2e-7; 0 from -126 down. No lane above 0.
Vec exp2(Vec x) {
    const Vec low = Vec{} - 126.0f;
    const Vec bounded = x > low ? x : low;
    const Vec shifted = bounded + 12582912.0f;  // 1.5 x 2^23: the last bits are now the nearest integer
    const Vec rest = bounded - (shifted - 12582912.0f);
    Vec y = 1.5403530e-4f * rest + 1.3333558e-3f;  // the series of 2^rest
    y = y * rest + 9.6181291e-3f;
    y = y * rest + 5.5504109e-2f;
    y = y * rest + 2.4022651e-1f;
    y = y * rest + 6.9314718e-1f;
    y = y * rest + 1.0f;
    const Ints exponent = (reinterpret_cast<Ints>(shifted) - 0x4B400000) << 23;
    return x > low ? reinterpret_cast<Vec>(reinterpret_cast<Ints>(y) + exponent) : Vec{};
}

float highest(Vec v) {
    float found = v[0];
    for (int lane = 1; lane < LANES; lane++) found = v[lane] > found ? v[lane] : found;
    return found;
}

float sum(Vec v) {
    float found = 0;
    for (int lane = 0; lane < LANES; lane++) found += v[lane];
    return found;
}

// sums (G, V vectors) += a (G, n) x b (n, V vectors); rows of each lie a step apart. All sums stay in registers; where
// they are few there are several of each, so that an addition need not wait for the one before.
template <int G, int V, typename Float>
void strip(const float *a, int64_t a_step, const Float *b, int64_t b_step, int64_t n, float *sums, int64_t sums_step) {
    constexpr int U = G * V >= 8 ? 1 : 8 / (G * V);
    Vec parts[U][G][V] = {};
    for (int g = 0; g < G; g++)
        for (int v = 0; v < V; v++) parts[0][g][v] = at(sums + g * sums_step + v * LANES);
    int64_t i = 0;
    for (; i + U <= n; i += U)
        for (int u = 0; u < U; u++)
            for (int v = 0; v < V; v++) {
                const Vec own = load(b + (i + u) * b_step + v * LANES);
                for (int g = 0; g < G; g++) parts[u][g][v] += a[g * a_step + i + u] * own;
            }
    for (; i < n; i++)
        for (int v = 0; v < V; v++) {
            const Vec own = load(b + i * b_step + v * LANES);
            for (int g = 0; g < G; g++) parts[0][g][v] += a[g * a_step + i] * own;
        }
    for (int g = 0; g < G; g++)
        for (int v = 0; v < V; v++) {
            for (int u = 1; u < U; u++) parts[0][g][v] += parts[u][g][v];
            at(sums + g * sums_step + v * LANES) = parts[0][g][v];
        }
}

// The same for b of any width, in strips of V vectors and what is left in narrower ones.
template <int G, int V, typename Float>
void strips(const float *a, int64_t a_step, const Float *b, int64_t b_step, int64_t n, float *sums, int64_t sums_step,
            int64_t width) {
    for (; width >= V * LANES; width -= V * LANES, b += V * LANES, sums += V * LANES)
        strip<G, V>(a, a_step, b, b_step, n, sums, sums_step);
    if constexpr (V > 1)
        if (width) strips<G, V / 2>(a, a_step, b, b_step, n, sums, sums_step, width);
}

constexpr int most_vectors(int queries) {
    int most = 8;
    while (most * queries > REGISTERS * 3 / 4) most /= 2;
    return most;
}

// The same for any number of queries, in blocks as equal as can be.
template <int G = MOST_QUERIES, typename Float>
void multiply(int64_t queries, const float *a, int64_t a_step, const Float *b, int64_t b_step, int64_t n, float *sums,
              int64_t sums_step, int64_t width) {
    if constexpr (G > 0) {
        for (int64_t blocks; queries && (queries - 1) / (blocks = (queries - 1) / MOST_QUERIES + 1) + 1 == G;) {
            strips<G, most_vectors(G)>(a, a_step, b, b_step, n, sums, sums_step, width);
            queries -= G, a += G * a_step, sums += G * sums_step;
        }
        multiply<G - 1>(queries, a, a_step, b, b_step, n, sums, sums_step, width);
    }
}

// ---- the pool

// A layer of it, as `native.py` packs it: addresses and sizes that hold for life. `DecodeBackend` says what each is.
struct Layer {
    void *keys, *values;                                         // (pages + 1, d, size), (pages + 1, size, d)
    const int64_t *part_pages;                                   // (slots + 1,), addresses
    const int32_t *part_starts, *part_tokens;                    // (slots + 1, heads)
    const int32_t *chunk_pages, *chunks, *tail_tokens, *write_at;  // (chunks, rows), (slots + 1, width), (slots + 1,)
    int64_t rows, width, first_row, heads, d, size;
};

// What one head holds of a sequence: the pages of its part, then those of its tail.
struct Row {
    const Layer &layer;
    const int32_t *part, *chunks, *tail;
    int64_t part_tokens, tail_tokens, part_pages, pages, write_at;

    Row(const Layer &layer, int64_t slot, int64_t head) : layer(layer) {
        const int64_t at = slot * layer.heads + head;
        part = reinterpret_cast<const int32_t *>(layer.part_pages[slot]) + layer.part_starts[at];
        chunks = layer.chunks + slot * layer.width;
        tail = layer.chunk_pages + layer.first_row + head;
        part_tokens = layer.part_tokens[at];
        tail_tokens = layer.tail_tokens[slot];
        write_at = layer.write_at[slot];
        part_pages = (part_tokens + layer.size - 1) / layer.size;
        pages = part_pages + (tail_tokens + layer.size - 1) / layer.size;
    }
    int64_t page(int64_t index) const {
        return index < part_pages ? part[index] : tail[chunks[index - part_pages] * layer.rows];
    }
    int64_t count(int64_t index) const {
        const int64_t left =
            index < part_pages ? part_tokens - index * layer.size : tail_tokens - (index - part_pages) * layer.size;
        return left < layer.size ? left : layer.size;
    }
};

// The softmax so far of the queries of one row: highest logit, sum of weights and weighted sum of values, by query.
struct Running {
    int64_t row = -1, group, d;
    float *peak, *total, *values;

    Running(int64_t group, int64_t d, float *room)
        : group(group), d(d), peak(room), total(room + group), values(total + group) {}

    static int64_t room(int64_t group, int64_t d) { return group * (d + 2); }

    void begin(int64_t at) {
        row = at;
        for (int64_t h = 0; h < group; h++) peak[h] = NOTHING;
        std::memset(total, 0, group * (d + 1) * sizeof(float));
    }

    // Measure query h's weights against a logit at least as high as before.
    void raise(int64_t h, float to) {
        if (to == peak[h]) return;
        const float shrink = std::exp2(peak[h] - to);
        peak[h] = to;
        total[h] *= shrink;
        for (int64_t c = h * d; c < (h + 1) * d; c++) values[c] *= shrink;
    }

    void join(Running &other) {
        for (int64_t h = 0; h < group; h++) {
            const float high = std::fmax(peak[h], other.peak[h]);
            if (high == NOTHING) continue;
            raise(h, high);
            other.raise(h, high);
            total[h] += other.total[h];
        }
        for (int64_t c = 0; c < group * d; c++) values[c] += other.values[c];
    }

    template <typename Float>
    void write(Float *output) const {
        output += row * group * d;
        for (int64_t h = 0; h < group; h++) {
            const float part = 1.0f / total[h];
            for (int64_t c = h * d; c < (h + 1) * d; c++) output[c] = values[c] * part;
        }
    }
};

// One layer's step. logits: room for (group, CHUNK * size); own: for the queries of a row, (group, d).
template <typename Float>
struct Step {
    const Layer &layer;
    const Float *queries, *keys, *values;
    int64_t group;
    float scaling;

    void prepare(int64_t row, float *own) const {
        const int64_t count = group * layer.d;
        for (int64_t c = 0; c < count; c += LANES) at(own + c) = load(queries + row * count + c) * scaling;
    }

    // The token of this step goes to its place in its page.
    void write(int64_t row, int64_t page, int64_t offset) const {
        const int64_t d = layer.d, size = layer.size;
        Float *key = static_cast<Float *>(layer.keys) + page * d * size + offset;
        for (int64_t c = 0; c < d; c++) key[c * size] = keys[row * d + c];
        std::memcpy(static_cast<Float *>(layer.values) + (page * size + offset) * d, values + row * d, d * sizeof(Float));
    }

    // Pages `next` to `stop` of a row, at most CHUNK, meet its queries.
    void meet(const Row &row, int64_t index, int64_t next, int64_t stop, const float *own, float *logits,
              Running &running) const {
        const int64_t d = layer.d, size = layer.size, block = d * size, step = CHUNK * size;
        const int64_t places = (stop - next) * size, written = row.part_pages + row.write_at / size;
        int64_t pages[CHUNK];
        for (int64_t i = next; i < stop; i++) pages[i - next] = row.page(i);
        if (next <= written && written < stop) write(index, pages[written - next], row.write_at % size);
        for (int64_t h = 0; h < group; h++) std::memset(logits + h * step, 0, places * sizeof(float));
        for (int64_t i = next; i < stop; i++) {
            const int64_t count = row.count(i);
            const Float *page = static_cast<const Float *>(layer.keys) + pages[i - next] * block;
            float *found = logits + (i - next) * size;
            multiply(group, own, d, page, size, d, found, step, size);
            for (int64_t h = 0; count < size && h < group; h++)
                for (int64_t j = count; j < size; j++) found[h * step + j] = NOTHING;
        }
        for (int64_t h = 0; h < group; h++) {
            float *weights = logits + h * step;
            Vec high = Vec{} + NOTHING;
            for (int64_t j = 0; j < places; j += LANES) high = at(weights + j) > high ? at(weights + j) : high;
            running.raise(h, std::fmax(running.peak[h], highest(high)));
            Vec total{};
            for (int64_t j = 0; j < places; j += LANES) total += at(weights + j) = exp2(at(weights + j) - running.peak[h]);
            running.total[h] += sum(total);
        }
        for (int64_t i = next; i < stop; i++)
            multiply(group, logits + (i - next) * size, step,
                     static_cast<const Float *>(layer.values) + pages[i - next] * block, d, row.count(i),
                     running.values, d, d);
    }
};

int64_t whole_lines(int64_t floats) { return (floats + 15) / 16 * 16; }

struct Free {
    void operator()(void *room) const { std::free(room); }
};

template <typename Float>
void attend(const Layer &layer, const int64_t *slots, int64_t sequences, int64_t group, const Float *queries,
            const Float *keys, const Float *values, float scaling, Float *output, int64_t threads) {
    const Step<Float> step{layer, queries, keys, values, group, scaling};
    const int64_t d = layer.d, rows = sequences * layer.heads;
    std::vector<int64_t> starts(rows + 1);
    for (int64_t row = 0; row < rows; row++)
        starts[row + 1] = starts[row] + Row(layer, slots[row / layer.heads], row % layer.heads).pages;
    const int64_t pages = starts[rows], worth = 1 + 2 * pages * d * layer.size / LEAST_WORK;
    threads = worth < threads ? worth : threads;

    // Of each thread: the first and the last row of its share, the queries it is at, and logits.
    const int64_t of_row = whole_lines(Running::room(group, d)), of_queries = whole_lines(group * d);
    const int64_t of_thread = 2 * of_row + of_queries + whole_lines(group * CHUNK * layer.size);
    const std::unique_ptr<float, Free> room(
        static_cast<float *>(std::aligned_alloc(64, threads * of_thread * sizeof(float))));
    std::vector<Running> ends;
    for (int64_t end = 0; end < 2 * threads; end++)
        ends.emplace_back(group, d, room.get() + end / 2 * of_thread + end % 2 * of_row);

#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int64_t share = omp_get_thread_num(), shares = omp_get_num_threads();
        int64_t next = pages * share / shares;
        const int64_t stop = pages * (share + 1) / shares;
        Running *running = &ends[2 * share];
        float *own = room.get() + share * of_thread + 2 * of_row, *logits = own + of_queries;
        for (int64_t row = 0; next < stop; row++) {
            const int64_t start = starts[row], end = starts[row + 1] < stop ? starts[row + 1] : stop;
            if (next >= end) continue;
            if (running == &ends[2 * share + 1]) running->write(output);  // begun and ended in this share
            if (running->row >= 0) running = &ends[2 * share + 1];
            running->begin(row);
            step.prepare(row, own);
            const Row at(layer, slots[row / layer.heads], row % layer.heads);
            for (int64_t first = next; first < end; first = next) {
                next = first + CHUNK < end ? first + CHUNK : end;
                step.meet(at, row, first - start, next - start, own, logits, *running);
            }
        }
    }
    Running *joined = nullptr;
    for (Running &one : ends) {
        if (one.row < 0) continue;
        if (joined && joined->row == one.row) {
            joined->join(one);
        } else {
            if (joined) joined->write(output);
            joined = &one;
        }
    }
    if (joined) joined->write(output);
    for (int64_t row = 0; row < rows; row++)
        if (starts[row] == starts[row + 1]) std::memset(output + row * group * d, 0, group * d * sizeof(Float));
}

// Whole pages from rows of keys and values, each a step after the one before: place i of them all takes row source[i],
// and zeros where that is -1.
template <typename Word>
void write(const Layer &layer, const int32_t *pages, int64_t count, const int64_t *source, const Word *keys,
           int64_t key_step, const Word *values, int64_t value_step, int64_t threads) {
    const int64_t d = layer.d, size = layer.size, worth = 1 + 2 * count * d * size / LEAST_WORK;
    const std::vector<Word> zeros(d);
#pragma omp parallel for num_threads(worth < threads ? worth : threads) if (worth > 1 && threads > 1)
    for (int64_t i = 0; i < count; i++) {
        std::vector<const Word *> rows(size);
        Word *own = static_cast<Word *>(layer.values) + pages[i] * size * d;
        for (int64_t j = 0; j < size; j++) {
            const int64_t from = source[i * size + j];
            rows[j] = from < 0 ? zeros.data() : keys + from * key_step;
            std::memcpy(own + j * d, from < 0 ? zeros.data() : values + from * value_step, d * sizeof(Word));
        }
        own = static_cast<Word *>(layer.keys) + pages[i] * size * d;
        for (int64_t c = 0; c < d; c++)
            for (int64_t j = 0; j < size; j++) own[c * size + j] = rows[j][c];
    }
}

}  // namespace

// `Element` is what the pool holds; `native.py` says which when it compiles.
extern "C" {

void attend_step(const Layer *layer, const int64_t *slots, int64_t sequences, int64_t group, const Element *queries,
                 const Element *keys, const Element *values, float scaling, Element *output, int64_t threads) {
    attend(*layer, slots, sequences, group, queries, keys, values, scaling, output, threads);
}

void write_pages(const Layer *layer, const int32_t *pages, int64_t count, const int64_t *source, const Element *keys,
                 int64_t key_step, const Element *values, int64_t value_step, int64_t threads) {
    write(*layer, pages, count, source, keys, key_step, values, value_step, threads);
}
}
