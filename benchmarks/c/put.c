/* Puts at full speed on libca: put NAMES. For each line "ROUNDS RATE WINDOW" it counts every PV up by one, ROUNDS times.
 * RATE: puts/s to keep to (0: as fast as the server takes them). WINDOW: rounds that may be on their way at a time;
 * the last put of each round asks for completion, which the server gives when it has done all before it. */
#include <epicsEvent.h>
#include <unistd.h>

#include "bench.h"

static volatile long rounds_done;
static epicsEventId progress;

static void on_done(struct event_handler_args args) {
    (void)args;
    rounds_done++;
    epicsEventSignal(progress);
}

int main(int argc, char **argv) {
    char line[128];
    double value;
    long rounds, window;
    double rate;
    if (argc < 3) return 2;
    load_names(argv[2]);
    progress = epicsEventMustCreate(epicsEventEmpty);
    check(ca_context_create(ca_enable_preemptive_callback), "context");
    chid *channels = create_channels(NULL);
    check(ca_pend_io(60.0), "connect");
    check(ca_array_get(DBR_DOUBLE, 1, channels[0], &value), "get");
    check(ca_pend_io(5.0), "get");
    puts("{\"ready\": true}");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) && sscanf(line, "%ld %lf %ld", &rounds, &rate, &window) == 3) {
        double start = now(), cpu_before = cpu();
        rounds_done = 0;
        for (long round = 0; round < rounds; round++) {
            value += 1;
            for (int i = 0; i < count - 1; i++) check(ca_array_put(DBR_DOUBLE, 1, channels[i], &value), "put");
            check(ca_array_put_callback(DBR_DOUBLE, 1, channels[count - 1], &value, on_done, NULL), "put");
            ca_flush_io();
            while (round + 1 - rounds_done >= window) epicsEventWaitWithTimeout(progress, 1.0);
            double ahead = rate > 0 ? (round + 1) * count / rate - (now() - start) : 0;
            if (ahead > 0) usleep((useconds_t)(1e6 * ahead));
        }
        while (rounds_done < rounds) epicsEventWaitWithTimeout(progress, 1.0);
        printf("{\"puts\": %ld, \"seconds\": %.6f, \"ended\": %.6f, \"cpu\": %.6f, \"value\": %.0f}\n", rounds * count,
               now() - start, now(), cpu() - cpu_before, value);
        fflush(stdout);
    }
    ca_context_destroy();
    return 0;
}
