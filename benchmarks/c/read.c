/* Reads of many PVs and of one, by libca: read cold|warm|get|put NAMES [plain|callback].
 * cold: search, connect and read in a fresh client. warm: read again and again without a pause, for as many
 * seconds as each line of input says.
 * get, put: single gets of the first PV, or puts with completion, as many as each line of input says. Callbacks are the faster way for
 * many PVs; `plain` is the usual way of scripts in C: no callbacks, one ca_pend_io for all. */
#include <epicsEvent.h>

#include "bench.h"

static struct dbr_time_double *values;
static int *answered; /* status of each get: 1 when its value came */
static volatile int remaining;
static epicsEventId all_done;

static void on_value(struct event_handler_args args) {
    int i = (int)(size_t)args.usr;
    if (args.status == ECA_NORMAL) {
        values[i] = *(const struct dbr_time_double *)args.dbr;
        answered[i] = 1;
    }
    if (--remaining == 0) epicsEventSignal(all_done);
}

/* The read goes out with the connection, not after all have connected. */
static void on_connection(struct connection_handler_args args) {
    if (args.op == CA_OP_CONN_UP)
        ca_array_get_callback(DBR_TIME_DOUBLE, 1, args.chid, on_value, ca_puser(args.chid));
}

static int count_right(void) {
    int right = 0;
    for (int i = 0; i < count; i++) right += answered[i] && values[i].value == expected[i] && values[i].stamp.secPastEpoch > 0;
    return right;
}

static void expect_all(void) {
    memset(answered, 0, count * sizeof *answered);
    remaining = count;
}

static void wait_all(void) {
    ca_flush_io();
    if (epicsEventWaitWithTimeout(all_done, 60.0) != epicsEventWaitOK) fprintf(stderr, "timed out, %d missing\n", remaining);
}

static chid *connect_and_read(void) {
    expect_all();
    check(ca_context_create(ca_enable_preemptive_callback), "context");
    chid *channels = create_channels(on_connection);
    wait_all();
    return channels;
}

static void read_all(chid *channels) {
    expect_all();
    for (int i = 0; i < count; i++)
        check(ca_array_get_callback(DBR_TIME_DOUBLE, 1, channels[i], on_value, (void *)(size_t)i), names[i]);
    wait_all();
}

/* The plain way: no callbacks, one ca_pend_io for all. */
static void read_all_pend(chid *channels) {
    for (int i = 0; i < count; i++)
        check(ca_array_get(DBR_TIME_DOUBLE, 1, channels[i], &values[i]), names[i]);
    int status = ca_pend_io(60.0);
    for (int i = 0; i < count; i++) answered[i] = status == ECA_NORMAL;
}

static void report(double seconds) {
    printf("{\"seconds\": %.9f, \"right\": %d, \"n\": %d}\n", seconds, count_right(), count);
    fflush(stdout);
}

/* Each get waited for: by ca_pend_io in one thread, or by a callback from libca's own thread. */
static void single_gets(int callback) {
    struct dbr_time_double value;
    char line[64];
    chid channel;
    check(ca_context_create(callback ? ca_enable_preemptive_callback : ca_disable_preemptive_callback), "context");
    check(ca_create_channel(names[0], NULL, NULL, 0, &channel), names[0]);
    check(ca_pend_io(10.0), "connect");
    puts("{\"ready\": true}");
    while (fflush(stdout), fgets(line, sizeof line, stdin) && atoi(line) > 0) {
        int repetitions = atoi(line), right = 0;
        printf("{\"ns\": [");
        for (int i = 0; i < repetitions; i++) {
            double start = now();
            if (callback) {
                remaining = 1;
                check(ca_array_get_callback(DBR_TIME_DOUBLE, 1, channel, on_value, NULL), "get");
                ca_flush_io();
                epicsEventWaitWithTimeout(all_done, 5.0);
                value = values[0];
            } else {
                check(ca_array_get(DBR_TIME_DOUBLE, 1, channel, &value), "get");
                check(ca_pend_io(5.0), "get");
            }
            printf("%s%.0f", i ? "," : "", 1e9 * (now() - start));
            right += value.value == expected[0];
        }
        printf("], \"right\": %d, \"n\": %d}\n", right, repetitions);
    }
}

static void on_put(struct event_handler_args args) {
    if (args.status == ECA_NORMAL) epicsEventSignal(all_done);
}

/* Puts with completion, counting up; the last one is read back. */
static void single_puts(void) {
    char line[64];
    chid channel;
    double value = 0;
    check(ca_context_create(ca_enable_preemptive_callback), "context");
    check(ca_create_channel(names[0], NULL, NULL, 0, &channel), names[0]);
    check(ca_pend_io(10.0), "connect");
    puts("{\"ready\": true}");
    while (fflush(stdout), fgets(line, sizeof line, stdin) && atoi(line) > 0) {
        int repetitions = atoi(line);
        printf("{\"ns\": [");
        for (int i = 0; i < repetitions; i++) {
            double start = now();
            value = i + 1;
            check(ca_array_put_callback(DBR_DOUBLE, 1, channel, &value, on_put, NULL), "put");
            ca_flush_io();
            epicsEventWaitWithTimeout(all_done, 5.0);
            printf("%s%.0f", i ? "," : "", 1e9 * (now() - start));
        }
        check(ca_array_get(DBR_DOUBLE, 1, channel, &value), "get");
        check(ca_pend_io(5.0), "get");
        printf("], \"right\": %d, \"n\": %d}\n", value == repetitions ? repetitions : 0, repetitions);
    }
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int plain = argc > 3 && strcmp(argv[3], "plain") == 0;
    load_names(argv[2]);
    values = calloc(count, sizeof *values);
    answered = calloc(count, sizeof *answered);
    all_done = epicsEventMustCreate(epicsEventEmpty);
    if (strcmp(argv[1], "cold") == 0 && !plain) {
        double start = now();
        connect_and_read();
        report(now() - start);
    } else if (strcmp(argv[1], "cold") == 0) {
        double start = now();
        check(ca_context_create(ca_disable_preemptive_callback), "context");
        chid *channels = create_channels(NULL);
        check(ca_pend_io(60.0), "connect");
        read_all_pend(channels);
        report(now() - start);
    } else if (strcmp(argv[1], "warm") == 0) {
        chid *channels = connect_and_read();
        puts("{\"ready\": true}");
        char line[64];
        while (fflush(stdout), fgets(line, sizeof line, stdin) && strcmp(line, "stop\n") != 0) {
            double enough = atof(line), spent = 0;
            int right = count;
            printf("{\"times\": [");
            for (int i = 0; i == 0 || (i < 20 && spent < enough); i++) {
                double start = now();
                if (plain) read_all_pend(channels);
                else read_all(channels);
                double seconds = now() - start;
                printf("%s%.9f", i ? "," : "", seconds);
                spent += seconds;
                if (count_right() < right) right = count_right();
            }
            printf("], \"right\": %d, \"n\": %d}\n", right, count);
        }
    } else if (strcmp(argv[1], "put") == 0) {
        single_puts();
    } else {
        single_gets(argc > 3 && strcmp(argv[3], "callback") == 0);
    }
    ca_context_destroy();
    return 0;
}
