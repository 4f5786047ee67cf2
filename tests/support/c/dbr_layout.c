/* Prints, for every DBR type, its number, size, offset of the value and size of the value as libca has them,
 * then every member of its structure with offset and size as the compiler has them. */
#include <stdio.h>
#include <stddef.h>
#include "db_access.h"
#include "alarm.h"
#include "caeventmask.h"

#define TYPE(T) printf("type %s %d %u %u %u\n", #T, DBR_##T, dbr_size[DBR_##T], dbr_value_offset[DBR_##T], dbr_value_size[DBR_##T])
#define SIZE(T, S) printf("size %s %zu\n", #T, sizeof(struct S))
#define MEMBER(T, S, M) \
    printf("member %s %s %zu %zu\n", #T, #M, offsetof(struct S, M), sizeof(((struct S *)0)->M))

#define HEAD(T, S) TYPE(T); SIZE(T, S); MEMBER(T, S, status); MEMBER(T, S, severity); MEMBER(T, S, value)
#define TIME(T, S) HEAD(T, S); MEMBER(T, S, stamp.secPastEpoch); MEMBER(T, S, stamp.nsec)
#define LIMITS(T, S) HEAD(T, S); MEMBER(T, S, units); \
    MEMBER(T, S, upper_disp_limit); MEMBER(T, S, lower_disp_limit); MEMBER(T, S, upper_alarm_limit); \
    MEMBER(T, S, upper_warning_limit); MEMBER(T, S, lower_warning_limit); MEMBER(T, S, lower_alarm_limit)
#define CTRL(T, S) LIMITS(T, S); MEMBER(T, S, upper_ctrl_limit); MEMBER(T, S, lower_ctrl_limit)
#define PRECISION(T, S) MEMBER(T, S, precision)
#define STATES(T, S) HEAD(T, S); MEMBER(T, S, no_str); MEMBER(T, S, strs)
#define ALARM(C) printf("alarm %s %d\n", epicsAlarmConditionStrings[C], C)
#define SEVERITY(C) printf("severity %s %d\n", epicsAlarmSeverityStrings[C], C)
#define MASK(M) printf("mask %s %d\n", #M, DBE_##M)

int main(void)
{
    int i;

    TYPE(STRING); TYPE(SHORT); TYPE(INT); TYPE(FLOAT); TYPE(ENUM); TYPE(CHAR); TYPE(LONG); TYPE(DOUBLE);

    HEAD(STS_STRING, dbr_sts_string); HEAD(STS_SHORT, dbr_sts_short); HEAD(STS_FLOAT, dbr_sts_float);
    HEAD(STS_ENUM, dbr_sts_enum); HEAD(STS_CHAR, dbr_sts_char); HEAD(STS_LONG, dbr_sts_long);
    HEAD(STS_DOUBLE, dbr_sts_double);

    TIME(TIME_STRING, dbr_time_string); TIME(TIME_SHORT, dbr_time_short); TIME(TIME_FLOAT, dbr_time_float);
    TIME(TIME_ENUM, dbr_time_enum); TIME(TIME_CHAR, dbr_time_char); TIME(TIME_LONG, dbr_time_long);
    TIME(TIME_DOUBLE, dbr_time_double);

    /* db_access.h: GR and CTRL of STRING are not implemented, the STS structure is used */
    HEAD(GR_STRING, dbr_sts_string); LIMITS(GR_SHORT, dbr_gr_short); LIMITS(GR_FLOAT, dbr_gr_float);
    PRECISION(GR_FLOAT, dbr_gr_float); STATES(GR_ENUM, dbr_gr_enum); LIMITS(GR_CHAR, dbr_gr_char);
    LIMITS(GR_LONG, dbr_gr_long); LIMITS(GR_DOUBLE, dbr_gr_double); PRECISION(GR_DOUBLE, dbr_gr_double);

    HEAD(CTRL_STRING, dbr_sts_string); CTRL(CTRL_SHORT, dbr_ctrl_short); CTRL(CTRL_FLOAT, dbr_ctrl_float);
    PRECISION(CTRL_FLOAT, dbr_ctrl_float); STATES(CTRL_ENUM, dbr_ctrl_enum); CTRL(CTRL_CHAR, dbr_ctrl_char);
    CTRL(CTRL_LONG, dbr_ctrl_long); CTRL(CTRL_DOUBLE, dbr_ctrl_double); PRECISION(CTRL_DOUBLE, dbr_ctrl_double);

    TYPE(PUT_ACKT); TYPE(PUT_ACKS); HEAD(STSACK_STRING, dbr_stsack_string);
    MEMBER(STSACK_STRING, dbr_stsack_string, ackt); MEMBER(STSACK_STRING, dbr_stsack_string, acks);
    TYPE(CLASS_NAME);

    for (i = 0; i < ALARM_NSTATUS; i++)
        ALARM(i);
    for (i = 0; i < ALARM_NSEV; i++)
        SEVERITY(i);
    MASK(VALUE); MASK(LOG); MASK(ARCHIVE); MASK(ALARM); MASK(PROPERTY);
    return 0;
}
