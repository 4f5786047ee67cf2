/* A subscriber on libca: monitor NAMES, memory NAMES, frames NAME.
 * monitor: counts the updates of counters that only go up by one, until the stream is quiet.
 * memory: connects and subscribes to all names and stays. frames: the same as monitor for arrays of
 * bytes whose first eight are a big-endian frame number. */
#include <unistd.h>

#include "bench.h"

static volatile long events, connected;
static double *first, *last, last_event;
static char *seen;

static void on_update(struct event_handler_args args) {
    int i = (int)(size_t)args.usr;
    double value = ((const struct dbr_time_double *)args.dbr)->value;
    if (!seen[i]) {
        seen[i] = 1;
        first[i] = value;
        connected++;
    }
    last[i] = value;
    events++;
}

static void on_frame(struct event_handler_args args) {
    const unsigned char *bytes = &((const struct dbr_time_char *)args.dbr)->value;
    double number = 0;
    for (int i = 0; i < 8 && args.count >= 8; i++) number = 256 * number + bytes[i];
    if (!seen[0]) {
        seen[0] = 1;
        first[0] = number;
        connected++;
    }
    last[0] = number;
    events++;
}

static void report(const char *before) {
    double firsts = 0, lasts = 0;
    for (int i = 0; i < count; i++) {
        firsts += seen[i] ? first[i] : 0;
        lasts += seen[i] ? last[i] : 0;
    }
    printf("{%s, \"pvs\": %ld, \"events\": %ld, \"first\": %.0f, \"last\": %.0f}\n", before, connected, events - connected,
           firsts, lasts);
    fflush(stdout);
}

static void wait_connected(void) {
    for (double end = now() + 60; connected < count && now() < end;) usleep(10000);
}

int main(int argc, char **argv) {
    char line[160];
    if (argc < 3) return 2;
    int memory = strcmp(argv[1], "memory") == 0, frames = strcmp(argv[1], "frames") == 0;
    load_names(argv[2]);
    first = calloc(count, sizeof *first);
    last = calloc(count, sizeof *last);
    seen = calloc(count, 1);
    chid *channels = calloc(count, sizeof *channels);
    check(ca_context_create(ca_enable_preemptive_callback), "context");
    if (memory) {
        puts("{\"ready\": true}");
        fflush(stdout);
        if (!next_command()) return 0;
    }
    for (int i = 0; i < count; i++) {
        check(ca_create_channel(names[i], NULL, NULL, 0, &channels[i]), names[i]);
        check(ca_create_subscription(frames ? DBR_TIME_CHAR : DBR_TIME_DOUBLE, frames ? 0 : 1, channels[i],
                                     DBE_VALUE | DBE_ALARM, frames ? on_frame : on_update, (void *)(size_t)i, NULL),
              names[i]);
    }
    ca_flush_io();
    wait_connected();
    double cpu_before = cpu(), start = now();
    report("\"ready\": true");
    while (next_command()) {
        double begun = now(), news = begun;
        for (long before = events; now() - news < 0.5 && now() - begun < 15; usleep(50000))
            if (events != before) {
                before = events;
                news = now();
            }
        snprintf(line, sizeof line, "\"cpu\": %.6f, \"elapsed\": %.6f, \"dropped\": 0", cpu() - cpu_before, now() - start);
        report(line);
    }
    ca_context_destroy();
    return 0;
}
