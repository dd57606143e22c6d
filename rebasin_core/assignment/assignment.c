/* Exact linear assignment: maximize the total value of a matrix of type REAL.
 *
 * An auction with epsilon scaling, in the precision of the matrix, computes prices of the columns until few rows are
 * unassigned. Shortest augmenting paths from these prices assign the rest in double precision. The result is exact
 * for any prices, and the final prices prove its optimality.
 *
 * D. Bertsekas (1988), "The auction algorithm: a distributed relaxation method for the assignment problem", Annals of
 * Operations Research 14; R. Jonker, A. Volgenant (1987), "A shortest augmenting path algorithm for dense and sparse
 * linear assignment problems", Computing 38.
 */

#include <stdlib.h>
#include <string.h>

#ifndef REAL
#define REAL float
#endif

#define LANES 16        /* independent minima of an inner loop, so that compilers vectorize it */
#define BLOCK 256       /* columns per block; only the block of the minimum is searched for its index */
#define LARGE 1e300
#define FINAL -1e300
#define MIN_ROWS 128    /* without an auction below this number of rows: it would take longer */
#define MAX_SHARE 50    /* an auction ends if at most one of this number of rows is unassigned, */
#define MAX_BIDS 4L     /* or after this number of bids per row */
#define COARSER 8.0     /* the first auction is repeated with an increment larger by this factor if it hits MAX_BIDS, */
#define MAX_ATTEMPTS 6  /* at most this number of times; */
#define FINER 4.0       /* then the increment is divided by this factor, */
#define FINEST 0.1      /* down to this multiple of the median difference between the best two columns */

typedef struct {
    int n;
    const REAL *value;  /* n * n, row-major */
    double *price;      /* of each column; a row prefers the column with the smallest price - value */
    int *column_of;     /* the column of each row, or -1 */
    int *row_of;        /* the row of each column, or -1 */
    int *queue;         /* the unassigned rows */
    int unassigned;     /* their number */
} Problem;

static const REAL *row(const Problem *p, int i) { return p->value + (size_t)i * (size_t)p->n; }

/* The smallest and second smallest price - value, and the column of the smallest. */
#define LEAST_TWO(NAME, PRICE)                                                                     \
    static int NAME(const REAL *value, const PRICE *price, int n, PRICE *first, PRICE *second) {   \
        PRICE least = (PRICE)1e37, next_least = (PRICE)1e37;                                       \
        int block = 0;                                                                             \
        for (int from = 0; from < n; from += BLOCK) {                                              \
            int to = from + BLOCK < n ? from + BLOCK : n, j = from;                                \
            PRICE low[LANES], next[LANES];                                                         \
            for (int k = 0; k < LANES; ++k) { low[k] = (PRICE)1e37; next[k] = (PRICE)1e37; }       \
            for (; j + LANES <= to; j += LANES) {                                                  \
                for (int k = 0; k < LANES; ++k) {                                                  \
                    PRICE x = price[j + k] - (PRICE)value[j + k];                                  \
                    PRICE more = x > low[k] ? x : low[k];                                          \
                    next[k] = more < next[k] ? more : next[k];                                     \
                    low[k] = x < low[k] ? x : low[k];                                              \
                }                                                                                  \
            }                                                                                      \
            for (; j < to; ++j) {                                                                  \
                PRICE x = price[j] - (PRICE)value[j];                                              \
                PRICE more = x > low[0] ? x : low[0];                                              \
                next[0] = more < next[0] ? more : next[0];                                         \
                low[0] = x < low[0] ? x : low[0];                                                  \
            }                                                                                      \
            for (int k = 0; k < LANES; ++k) {                                                      \
                if (low[k] < least) {                                                              \
                    next_least = least < next[k] ? least : next[k];                                \
                    least = low[k];                                                                \
                    block = from;                                                                  \
                } else if (low[k] < next_least) {                                                  \
                    next_least = low[k];                                                           \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        *first = least;                                                                            \
        *second = next_least;                                                                      \
        for (int j = block; j < n; ++j) {                                                          \
            if (price[j] - (PRICE)value[j] == least) return j;                                     \
        }                                                                                          \
        return block;                                                                              \
    }

LEAST_TWO(least_two, double)
LEAST_TWO(least_two_fast, REAL)

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Unassign the rows whose column is more than `slack` worse than their best one; rebuild the queue. */
static void release(Problem *p, double slack) {
    p->unassigned = 0;
    for (int i = 0; i < p->n; ++i) {
        int j = p->column_of[i];
        if (j >= 0) {
            double first, second;
            least_two(row(p, i), p->price, p->n, &first, &second);
            if (p->price[j] - (double)row(p, i)[j] <= first + slack) continue;
            p->row_of[j] = -1;
            p->column_of[i] = -1;
        }
        p->queue[p->unassigned++] = i;
    }
}

/* Another column at the smallest price - value that is unassigned, or -1. */
static int unassigned_tie(const Problem *p, int i, int from, double first) {
    const REAL *value = row(p, i);
    for (int j = from; j < p->n; ++j) {
        if (p->row_of[j] < 0 && p->price[j] - (double)value[j] == first) return j;
    }
    return -1;
}

/* Assign each unassigned row to its best column, or to one of several best columns, if that is unassigned. */
static void greedy(Problem *p) {
    int kept = 0;
    for (int k = 0; k < p->unassigned; ++k) {
        int i = p->queue[k];
        double first, second;
        int j = least_two(row(p, i), p->price, p->n, &first, &second);
        if (p->row_of[j] >= 0 && second <= first) {
            int tie = unassigned_tie(p, i, j + 1, first);
            j = tie < 0 ? j : tie;
        }
        if (p->row_of[j] < 0) {
            p->row_of[j] = i;
            p->column_of[i] = j;
        } else {
            p->queue[kept++] = i;
        }
    }
    p->unassigned = kept;
}

/* The smallest price - value above `first`; LARGE if all are equal. */
static double next_above(const Problem *p, int i, double first) {
    const REAL *value = row(p, i);
    double least = LARGE;
    for (int j = 0; j < p->n; ++j) {
        double x = p->price[j] - (double)value[j];
        if (x > first && x < least) least = x;
    }
    return least;
}

/* The median difference between the best two columns over up to 257 of the unassigned rows. Columns that are equally
 * good, such as those of dead units, count as one; rows without a difference are omitted. */
static double median_difference(const Problem *p) {
    double differences[257];
    int count = 0, step = p->unassigned / 256 + 1;
    for (int k = 0; k < p->unassigned && count < 257; k += step) {
        double first, second;
        int i = p->queue[k];
        least_two(row(p, i), p->price, p->n, &first, &second);
        if (second <= first) second = next_above(p, i, first);
        if (second < LARGE) differences[count++] = second - first;
    }
    qsort(differences, (size_t)count, sizeof(double), ascending);
    return count ? differences[count / 2] : 0.0;
}

/* Gauss-Seidel auction: unassigned rows bid one at a time, until few are unassigned or `max_bids` were made. */
static void auction(Problem *p, REAL *price, double increment, long max_bids) {
    int enough = p->n / MAX_SHARE;
    for (int j = 0; j < p->n; ++j) price[j] = (REAL)p->price[j];
    while (p->unassigned > enough && max_bids-- > 0) {
        int i = p->queue[--p->unassigned];
        REAL first, second;
        int j = least_two_fast(row(p, i), price, p->n, &first, &second);
        int other = p->row_of[j];
        price[j] += (second - first) + (REAL)increment;
        if (other >= 0) {
            p->column_of[other] = -1;
            p->queue[p->unassigned++] = other;
        }
        p->row_of[j] = i;
        p->column_of[i] = j;
    }
    for (int j = 0; j < p->n; ++j) p->price[j] = (double)price[j];
}

typedef struct {
    double *distance;     /* of each column from the start row; FINAL if it is in the list */
    int *predecessor;     /* the row before each column on its shortest path */
    int *list;            /* the columns whose distance is final, in order */
    double *final;        /* their distances */
    double *least;        /* the smallest distance of each block */
} Workspace;

/* Mark the distance of a column as final; return 1 if the column is unassigned, so that the path ends there. */
static int finalize(const Problem *p, Workspace *work, int j, int *listed) {
    if (p->row_of[j] < 0) return 1;
    work->list[*listed] = j;
    work->final[(*listed)++] = work->distance[j];
    work->distance[j] = FINAL;
    return 0;
}

/* Finalize the columns of a block at distances of at most `least`; return the end of the path or -1. */
static int finalize_block(const Problem *p, Workspace *work, int from, int to, double least, int *listed) {
    for (int j = from; j < to; ++j) {
        double x = work->distance[j];
        if (x <= least && x > FINAL && finalize(p, work, j, listed)) return j;
    }
    return -1;
}

/* The smallest distance in a block that is not final. */
static double least_of_block(const double *distance, int size) {
    double low[LANES], least = LARGE;
    int j = 0;
    for (int k = 0; k < LANES; ++k) low[k] = LARGE;
    for (; j + LANES <= size; j += LANES) {
        for (int k = 0; k < LANES; ++k) {
            double x = distance[j + k] > FINAL ? distance[j + k] : LARGE;
            low[k] = x < low[k] ? x : low[k];
        }
    }
    for (; j < size; ++j) {
        double x = distance[j] > FINAL ? distance[j] : LARGE;
        low[0] = x < low[0] ? x : low[0];
    }
    for (int k = 0; k < LANES; ++k) least = low[k] < least ? low[k] : least;
    return least;
}

/* Finalize all columns at the smallest distance; return the end of the path or -1. */
static int nearest(const Problem *p, Workspace *work, int *listed, double *least) {
    *least = LARGE;
    for (int from = 0, b = 0; from < p->n; from += BLOCK, ++b) {
        int size = from + BLOCK < p->n ? BLOCK : p->n - from;
        work->least[b] = least_of_block(work->distance + from, size);
        *least = work->least[b] < *least ? work->least[b] : *least;
    }
    for (int from = 0, b = 0; from < p->n; from += BLOCK, ++b) {
        if (work->least[b] > *least) continue;
        int end = finalize_block(p, work, from, from + BLOCK < p->n ? from + BLOCK : p->n, *least, listed);
        if (end >= 0) return end;
    }
    return -1;
}

/* Relax the distances through the row of a final column; return the end of the path or -1. */
static int relax(const Problem *p, Workspace *work, int k, double least, int *listed) {
    int column = work->list[k], i = p->row_of[column];
    const REAL *value = row(p, i);
    const double *price = p->price;
    double *distance = work->distance;
    int *predecessor = work->predecessor;
    double shift = price[column] - (double)value[column] - least;
    for (int from = 0; from < p->n; from += BLOCK) {
        int to = from + BLOCK < p->n ? from + BLOCK : p->n, touched = 0;
        for (int j = from; j < to; ++j) {
            double x = price[j] - (double)value[j] - shift;
            int nearer = x < distance[j];
            distance[j] = nearer ? x : distance[j];
            predecessor[j] = nearer ? i : predecessor[j];
            touched |= nearer & (x <= least);
        }
        if (touched) {
            int end = finalize_block(p, work, from, to, least, listed);
            if (end >= 0) return end;
        }
    }
    return -1;
}

/* Assign one row by a shortest augmenting path (Dijkstra's algorithm on reduced costs), and update the prices. */
static void augment(Problem *p, int start, Workspace *work) {
    int end = -1, ready = 0, listed = 0;
    double least = LARGE;
    for (int j = 0; j < p->n; ++j) {
        work->distance[j] = p->price[j] - (double)row(p, start)[j];
        work->predecessor[j] = start;
    }
    while (end < 0) {
        if (ready == listed) {
            end = nearest(p, work, &listed, &least);
        } else {
            end = relax(p, work, ready++, least, &listed);
        }
    }
    for (int k = 0; k < ready; ++k) p->price[work->list[k]] += least - work->final[k];
    for (int i = -1, column = end; i != start;) {
        i = work->predecessor[column];
        int other = p->column_of[i];
        p->row_of[column] = i;
        p->column_of[i] = column;
        column = other;
    }
}

/* Initialize the price of each column by the largest value in it. */
static void initialize_prices(Problem *p) {
    for (int j = 0; j < p->n; ++j) p->price[j] = (double)p->value[j];
    for (int i = 1; i < p->n; ++i) {
        const REAL *value = row(p, i);
        for (int j = 0; j < p->n; ++j) {
            double x = (double)value[j];
            p->price[j] = x > p->price[j] ? x : p->price[j];
        }
    }
}

/* Augmenting row reduction (Jonker and Volgenant): an auction without increment, which keeps the prices optimal. */
static void reduce_rows(Problem *p, long max_bids) {
    int kept = 0;
    while (p->unassigned > kept && max_bids-- > 0) {
        int i = p->queue[--p->unassigned];
        double first, second;
        int j = least_two(row(p, i), p->price, p->n, &first, &second);
        int other = p->row_of[j];
        if (other >= 0 && second <= first) { /* a tie; left to augmenting paths */
            p->queue[p->unassigned++] = p->queue[kept];
            p->queue[kept++] = i;
            continue;
        }
        p->price[j] += second - first;
        if (other >= 0) {
            p->column_of[other] = -1;
            p->queue[p->unassigned++] = other;
        }
        p->row_of[j] = i;
        p->column_of[i] = j;
    }
}

/* Solve one problem; return whether the gap is 0 because all rows have a best column at the first prices. */
static int solve(Problem *p, Workspace *work, REAL *fast_price, int warm) {
    int priced = 0;
    if (warm) {
        release(p, 0.0);
    } else {
        initialize_prices(p);
    }
    greedy(p);
    if (p->unassigned == 0) return 1;
    if (p->n >= MIN_ROWS && p->unassigned > p->n / (warm ? 4 : 10)) {
        double increment = median_difference(p), last = increment * FINEST;
        for (int k = 0; k < MAX_ATTEMPTS && increment > 0; ++k) {
            auction(p, fast_price, increment, MAX_BIDS * p->n);
            priced = 1;
            if (p->unassigned <= p->n / MAX_SHARE) break;
            increment *= COARSER;
        }
        while (increment > last) {
            increment /= FINER;
            release(p, increment);
            auction(p, fast_price, increment, MAX_BIDS * p->n);
        }
    }
    if (priced) release(p, 0.0);
    reduce_rows(p, MAX_BIDS * p->unassigned);
    int remaining = p->unassigned;
    for (int k = 0; k < remaining; ++k) augment(p, p->queue[k], work);
    return 0;
}

/* The optimality gap that the prices prove. */
static double gap_of(const Problem *p) {
    double gap = 0.0;
    for (int i = 0; i < p->n; ++i) {
        double first, second;
        int j = p->column_of[i];
        least_two(row(p, i), p->price, p->n, &first, &second);
        gap += p->price[j] - (double)row(p, i)[j] - first;
    }
    return gap;
}

/* Solve `batch` problems sequentially.
 *
 * value: batch * n * n finite numbers. price: batch * n, the dual variables of the columns. column_of: batch * n, the
 * assignment; all columns of a problem are different. If `warm` is not 0, price (any values) and column_of (-1 for
 * unassigned rows) hold the starting point. gap: batch, the optimality gap of each assignment. Returns 0, or -1 if
 * memory could not be allocated.
 */
int rebasin_assignment(int batch, int n, const REAL *value, double *price, int warm, int *column_of, double *gap) {
    size_t size = (size_t)n;
    Workspace work = {malloc(sizeof(double) * size), malloc(sizeof(int) * size), malloc(sizeof(int) * size),
                      malloc(sizeof(double) * size), malloc(sizeof(double) * (size / BLOCK + 1))};
    int *row_of = malloc(sizeof(int) * size), *queue = malloc(sizeof(int) * size);
    REAL *fast_price = malloc(sizeof(REAL) * size);
    int failed = !work.distance || !work.predecessor || !work.list || !work.final || !work.least || !row_of || !queue || !fast_price;
    for (int b = 0; b < batch && !failed; ++b) {
        Problem p = {n, value + (size_t)b * size * size, price + (size_t)b * size, column_of + (size_t)b * size,
                     row_of, queue, n};
        for (int k = 0; k < n; ++k) { row_of[k] = -1; queue[k] = k; }
        for (int k = 0; k < n; ++k) {
            if (!warm) p.column_of[k] = -1;
            if (p.column_of[k] >= 0) row_of[p.column_of[k]] = k;
        }
        gap[b] = solve(&p, &work, fast_price, warm) ? 0.0 : gap_of(&p);
    }
    free(work.distance); free(work.predecessor); free(work.list); free(work.final); free(work.least);
    free(row_of); free(queue); free(fast_price);
    return failed ? -1 : 0;
}
