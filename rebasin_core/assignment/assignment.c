/* Linear assignment: the largest total gain, exactly, for matrices of numbers of type REAL.
 *
 * Prices of columns come from an auction with falling increments, in the matrix's own precision, stopped when few rows
 * are free; then shortest augmenting paths from these prices, in double precision. The end is exact whatever the
 * auction left, and the prices prove it.
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

#define LANES 16     /* numbers that are compared at once: what compilers turn into vector instructions */
#define BLOCK 256    /* columns after which the best block is noted, so that only that one is searched for its index */
#define LARGE 1e300
#define FEWEST 128   /* rows below which an auction does not pay */
#define ENOUGH 50    /* an auction ends with one row of so many free */
#define BIDS 4L      /* bids for every row, after which an auction ends however many are free */
#define COARSER 8.0  /* the increment grows by this while the bids do not come to an end, */
#define ATTEMPTS 6   /* at most so often, */
#define FINER 4.0    /* and then falls by this, */
#define FINEST 0.1   /* down to this part of the usual difference of the best and the second best column */

typedef struct {
    int n;
    const REAL *gain;  /* n * n, row by row */
    double *price;     /* of a column: what is minimised over columns is price - gain */
    int *column_of;    /* of a row, or -1 */
    int *row_of;       /* of a column, or -1 */
    int *queue;        /* rows that are free */
    int free;
} Problem;

static const REAL *row(const Problem *p, int i) { return p->gain + (size_t)i * (size_t)p->n; }

/* The least and the second least of price - gain, and the column of the least. */
#define LEAST_TWO(NAME, PRICE)                                                                     \
    static int NAME(const REAL *gain, const PRICE *price, int n, PRICE *first, PRICE *second) {    \
        PRICE least = (PRICE)1e37, then = (PRICE)1e37;                                             \
        int where = 0;                                                                             \
        for (int from = 0; from < n; from += BLOCK) {                                              \
            int to = from + BLOCK < n ? from + BLOCK : n, j = from;                                \
            PRICE low[LANES], next[LANES];                                                         \
            for (int k = 0; k < LANES; ++k) { low[k] = (PRICE)1e37; next[k] = (PRICE)1e37; }       \
            for (; j + LANES <= to; j += LANES) {                                                  \
                for (int k = 0; k < LANES; ++k) {                                                  \
                    PRICE x = price[j + k] - (PRICE)gain[j + k];                                   \
                    PRICE more = x > low[k] ? x : low[k];                                          \
                    next[k] = more < next[k] ? more : next[k];                                     \
                    low[k] = x < low[k] ? x : low[k];                                              \
                }                                                                                  \
            }                                                                                      \
            for (; j < to; ++j) {                                                                  \
                PRICE x = price[j] - (PRICE)gain[j];                                               \
                PRICE more = x > low[0] ? x : low[0];                                              \
                next[0] = more < next[0] ? more : next[0];                                         \
                low[0] = x < low[0] ? x : low[0];                                                  \
            }                                                                                      \
            for (int k = 0; k < LANES; ++k) {                                                      \
                if (low[k] < least) {                                                              \
                    then = least < next[k] ? least : next[k];                                      \
                    least = low[k];                                                                \
                    where = from;                                                                  \
                } else if (low[k] < then) {                                                        \
                    then = low[k];                                                                 \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        *first = least;                                                                            \
        *second = then;                                                                            \
        for (int j = where; j < n; ++j) {                                                          \
            if (price[j] - (PRICE)gain[j] == least) return j;                                      \
        }                                                                                          \
        return where;                                                                              \
    }

LEAST_TWO(least_two, double)
LEAST_TWO(least_two_quickly, REAL)

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Rows that are not content with their column within `slack` become free; the queue is made anew. */
static void release(Problem *p, double slack) {
    p->free = 0;
    for (int i = 0; i < p->n; ++i) {
        int j = p->column_of[i];
        if (j >= 0) {
            double first, second;
            least_two(row(p, i), p->price, p->n, &first, &second);
            if (p->price[j] - (double)row(p, i)[j] <= first + slack) continue;
            p->row_of[j] = -1;
            p->column_of[i] = -1;
        }
        p->queue[p->free++] = i;
    }
}

/* Every row whose best column is free takes it. */
static void greedy(Problem *p) {
    int kept = 0, free = p->free;
    for (int k = 0; k < free; ++k) {
        int i = p->queue[k];
        double first, second;
        int j = least_two(row(p, i), p->price, p->n, &first, &second);
        if (p->row_of[j] < 0) {
            p->row_of[j] = i;
            p->column_of[i] = j;
        } else {
            p->queue[kept++] = i;
        }
    }
    p->free = kept;
}

/* The median difference between the best and the second best column, over some of the free rows; ties do not count. */
static double usual_difference(const Problem *p) {
    double differences[257];
    int count = 0, step = p->free / 256 + 1;
    for (int k = 0; k < p->free && count < 257; k += step) {
        double first, second;
        least_two(row(p, p->queue[k]), p->price, p->n, &first, &second);
        if (second > first) differences[count++] = second - first;
    }
    qsort(differences, (size_t)count, sizeof(double), ascending);
    return count ? differences[count / 2] : 0.0;
}

/* Free rows bid until few are left, or too many bids were made. */
static void auction(Problem *p, REAL *price, double increment, long most) {
    int enough = p->n / ENOUGH;
    for (int j = 0; j < p->n; ++j) price[j] = (REAL)p->price[j];
    while (p->free > enough && most-- > 0) {
        int i = p->queue[--p->free];
        REAL first, second;
        int j = least_two_quickly(row(p, i), price, p->n, &first, &second);
        int other = p->row_of[j];
        price[j] += (second - first) + (REAL)increment;
        if (other >= 0) {
            p->column_of[other] = -1;
            p->queue[p->free++] = other;
        }
        p->row_of[j] = i;
        p->column_of[i] = j;
    }
    for (int j = 0; j < p->n; ++j) p->price[j] = (double)price[j];
}

typedef struct {
    double *distance;
    int *before;
    int *list;
    unsigned char *done;
} Room;

/* Take a column among the nearest into the list, or end at it if it is free. */
static int reached(const Problem *p, Room *room, int j, int *listed) {
    if (p->row_of[j] < 0) return 1;
    room->done[j] = 1;
    room->list[(*listed)++] = j;
    return 0;
}

/* The nearest of the columns not done, all of them at once; the end of the path or -1. */
static int nearest(const Problem *p, Room *room, int *listed, double *least) {
    double low = LARGE;
    for (int j = 0; j < p->n; ++j) {
        double x = room->done[j] ? LARGE : room->distance[j];
        low = x < low ? x : low;
    }
    *least = low;
    for (int j = 0; j < p->n; ++j) {
        if (!room->done[j] && room->distance[j] == low && reached(p, room, j, listed)) return j;
    }
    return -1;
}

/* Shorten distances by way of one done column; the end of the path or -1. */
static int relax(const Problem *p, Room *room, int column, double least, int *listed) {
    int i = p->row_of[column], touched = 0;
    const REAL *gain = row(p, i);
    double shift = p->price[column] - (double)gain[column] - least;
    for (int j = 0; j < p->n; ++j) {
        double x = p->price[j] - (double)gain[j] - shift;
        int nearer = (x < room->distance[j]) & !room->done[j];
        room->distance[j] = nearer ? x : room->distance[j];
        room->before[j] = nearer ? i : room->before[j];
        touched |= nearer & (x <= least);
    }
    if (!touched) return -1;
    for (int j = 0; j < p->n; ++j) {
        if (!room->done[j] && room->distance[j] <= least && reached(p, room, j, listed)) return j;
    }
    return -1;
}

/* The shortest augmenting path from one free row. */
static void augment(Problem *p, int start, Room *room) {
    int end = -1, ready = 0, listed = 0;
    double least = LARGE;
    memset(room->done, 0, (size_t)p->n);
    for (int j = 0; j < p->n; ++j) {
        room->distance[j] = p->price[j] - (double)row(p, start)[j];
        room->before[j] = start;
    }
    while (end < 0) {
        if (ready == listed) {
            end = nearest(p, room, &listed, &least);
        } else {
            end = relax(p, room, room->list[ready++], least, &listed);
        }
    }
    for (int k = 0; k < ready; ++k) p->price[room->list[k]] += least - room->distance[room->list[k]];
    for (int i = -1, column = end; i != start;) {
        i = room->before[column];
        int other = p->column_of[i];
        p->row_of[column] = i;
        p->column_of[i] = column;
        column = other;
    }
}

/* Prices at which the auction begins: of every column, the largest gain in it. */
static void reduce(Problem *p) {
    for (int j = 0; j < p->n; ++j) p->price[j] = (double)p->gain[j];
    for (int i = 1; i < p->n; ++i) {
        const REAL *gain = row(p, i);
        for (int j = 0; j < p->n; ++j) {
            double x = (double)gain[j];
            p->price[j] = x > p->price[j] ? x : p->price[j];
        }
    }
}

/* Free rows bid exactly what their second choice allows, so that all that are assigned stay content. */
static void settle(Problem *p, long most) {
    int kept = 0;
    while (p->free > kept && most-- > 0) {
        int i = p->queue[--p->free];
        double first, second;
        int j = least_two(row(p, i), p->price, p->n, &first, &second);
        int other = p->row_of[j];
        if (other >= 0 && second <= first) { /* a tie, that paths resolve */
            p->queue[p->free++] = p->queue[kept];
            p->queue[kept++] = i;
            continue;
        }
        p->price[j] += second - first;
        if (other >= 0) {
            p->column_of[other] = -1;
            p->queue[p->free++] = other;
        }
        p->row_of[j] = i;
        p->column_of[i] = j;
    }
}

static void solve(Problem *p, Room *room, REAL *quick, int warm) {
    if (warm) {
        release(p, 0.0);
    } else {
        reduce(p);
    }
    greedy(p);
    if (p->n >= FEWEST && p->free > p->n / (warm ? 4 : 10)) {
        double increment = usual_difference(p), last = increment * FINEST;
        for (int k = 0; k < ATTEMPTS && increment > 0; ++k) {
            auction(p, quick, increment, BIDS * p->n);
            if (p->free <= p->n / ENOUGH) break;
            increment *= COARSER;
        }
        while (increment > last) {
            increment /= FINER;
            release(p, increment);
            auction(p, quick, increment, BIDS * p->n);
        }
    }
    release(p, 0.0);
    settle(p, BIDS * p->free);
    int left = p->free;
    for (int k = 0; k < left; ++k) augment(p, p->queue[k], room);
}

/* By how much the prices allow another assignment to be better. */
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

/* Solve `batch` problems one after the other.
 *
 * gain: batch * n * n finite numbers. price: batch * n, the dual variables of the columns. column_of: batch * n, the
 * answer; no column twice. Both hold where to begin if `warm` (any prices; -1 for rows that are free). gap: batch; the
 * most by which the answer can fall short of the optimum. Returns 0, or -1 if there is no memory.
 */
int rebasin_assignment(int batch, int n, const REAL *gain, double *price, int warm, int *column_of, double *gap) {
    size_t size = (size_t)n;
    Room room = {malloc(sizeof(double) * size), malloc(sizeof(int) * size), malloc(sizeof(int) * size), malloc(size)};
    int *row_of = malloc(sizeof(int) * size), *queue = malloc(sizeof(int) * size);
    REAL *quick = malloc(sizeof(REAL) * size);
    int failed = !room.distance || !room.before || !room.list || !room.done || !row_of || !queue || !quick;
    for (int b = 0; b < batch && !failed; ++b) {
        Problem p = {n, gain + (size_t)b * size * size, price + (size_t)b * size, column_of + (size_t)b * size,
                     row_of, queue, n};
        for (int k = 0; k < n; ++k) { row_of[k] = -1; queue[k] = k; }
        for (int k = 0; k < n; ++k) {
            if (!warm) p.column_of[k] = -1;
            if (p.column_of[k] >= 0) row_of[p.column_of[k]] = k;
        }
        solve(&p, &room, quick, warm);
        gap[b] = gap_of(&p);
    }
    free(room.distance); free(room.before); free(room.list); free(room.done); free(row_of); free(queue); free(quick);
    return failed ? -1 : 0;
}
