/* The CA repeater, so that no client has to look for one or complain that there is none. Ends with its input. */
#include <stdlib.h>
#include <unistd.h>

#include <epicsThread.h>

void caRepeaterThread(void *unused);

int main(void) {
    char buffer[16];
    epicsThreadCreate("repeater", epicsThreadPriorityMedium, epicsThreadGetStackSize(epicsThreadStackMedium),
                      caRepeaterThread, NULL);
    while (read(0, buffer, sizeof buffer) > 0) {}
    return 0;
}
