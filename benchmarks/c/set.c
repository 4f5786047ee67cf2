/* Puts with completion, one after the other, all as numbers: set NAME VALUE [NAME VALUE ...], for each line of input. */
#include <epicsEvent.h>

#include "bench.h"

static epicsEventId done;

static void on_done(struct event_handler_args args) {
    check(args.status, "put");
    epicsEventSignal(done);
}

int main(int argc, char **argv) {
    chid channel;
    done = epicsEventMustCreate(epicsEventEmpty);
    check(ca_context_create(ca_enable_preemptive_callback), "context");
    puts("{\"ready\": true}");
    while (fflush(stdout), next_command()) {
        double start = now();
        for (int i = 1; i + 1 < argc; i += 2) {
            double value = atof(argv[i + 1]);
            check(ca_create_channel(argv[i], NULL, NULL, 0, &channel), argv[i]);
            check(ca_pend_io(10.0), argv[i]);
            check(ca_array_put_callback(DBR_DOUBLE, 1, channel, &value, on_done, NULL), argv[i]);
            ca_flush_io();
            if (epicsEventWaitWithTimeout(done, 120.0) != epicsEventWaitOK) return 1;
            check(ca_clear_channel(channel), argv[i]);
        }
        printf("{\"seconds\": %.6f}\n", now() - start);
    }
    ca_context_destroy();
    return 0;
}
