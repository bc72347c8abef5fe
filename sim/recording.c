/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/recording.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sim/events.h"

int smoe_recording_open(struct smoe_recording *r, const char *path, struct smoe_why *why)
{
    uint8_t header[SMOE_TRACE_HEADER_BYTES];
    *r = (struct smoe_recording){.file = fopen(path, "rb"), .path = path};
    if (!r->file)
        return smoe_fail(why, -errno, "%s: %s", path, strerror(errno));
    int rc = fread(header, 1, sizeof header, r->file) == sizeof header
                 ? smoe_trace_check_header(header, why)
                 : smoe_fail(why, SMOE_EDATA, "too short for a trace");
    if (rc) {
        smoe_recording_close(r);
        return smoe_fail_at(why, rc, "%s", path);
    }
    r->bytes = sizeof header;
    return 0;
}

void smoe_recording_close(struct smoe_recording *r)
{
    if (r->file)
        fclose(r->file);
    smoe_trace_codec_free(r->codec);
    free(r->payload);
    *r = (struct smoe_recording){0};
}

void smoe_recording_rewind(struct smoe_recording *r)
{
    (void)fseek(r->file, SMOE_TRACE_HEADER_BYTES, SEEK_SET);
    r->bytes = SMOE_TRACE_HEADER_BYTES;
    r->records = r->missing = 0;
    r->torn = r->ended = false;
}

/* Room for the largest record so far, and memory to take it apart. */
static int make_room(struct smoe_recording *r, size_t bytes)
{
    if (bytes <= r->payload_cap && r->codec)
        return 0;
    smoe_trace_codec_free(r->codec);
    free(r->payload);
    r->codec = NULL;
    r->payload_cap = bytes > 1u << 16 ? bytes : 1u << 16;
    r->payload = smoe_sim_alloc(r->payload_cap, 1);
    return smoe_trace_codec_new(r->payload_cap, &r->codec);
}

/* The next frame and its payload; false if there is no whole one. What a damaged length asks for is
 * compared with the file before memory is. */
static bool read_record(struct smoe_recording *r, struct smoe_trace_frame *ret, int *ret_rc)
{
    uint8_t head[SMOE_TRACE_FRAME_BYTES];
    size_t got = fread(head, 1, sizeof head, r->file);
    r->torn = got > 0;
    if (got < sizeof head || smoe_trace_read_frame(head, ret))
        return false;
    long at = ftell(r->file);
    if (fseek(r->file, 0, SEEK_END) || ftell(r->file) - at < (long)ret->bytes ||
        fseek(r->file, at, SEEK_SET))
        return false;
    *ret_rc = make_room(r, ret->bytes);
    if (*ret_rc || fread(r->payload, 1, ret->bytes, r->file) != ret->bytes ||
        !smoe_trace_frame_holds(ret, r->payload))
        return false;
    r->torn = false;
    return true;
}

int smoe_recording_next(struct smoe_recording *r, struct smoe_trace_entry *ret, bool *ret_more,
                        struct smoe_why *why)
{
    struct smoe_trace_frame frame;
    int rc = SMOE_EUNKNOWN;
    while (rc == SMOE_EUNKNOWN) { /* types of a later time are skipped */
        rc = 0;
        *ret_more = read_record(r, &frame, &rc);
        if (!*ret_more)
            return rc ? smoe_fail(why, rc, "%s: out of memory", r->path) : 0;
        r->records++;
        r->bytes += SMOE_TRACE_FRAME_BYTES + frame.bytes;
        rc = smoe_trace_decode(r->codec, &frame, r->payload, ret, why);
    }
    if (rc)
        return smoe_fail_at(why, rc, "%s: record %llu", r->path, (unsigned long long)r->records);
    r->missing += ret->type == SMOE_TRACE_LOST ? ret->lost : 0;
    r->ended = ret->type == SMOE_TRACE_END;
    return 0;
}
