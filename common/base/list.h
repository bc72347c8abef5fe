/* SPDX-License-Identifier: Apache-2.0
 *
 * An intrusive doubly linked ring. The node lives inside the object; the head is a node of its own.
 * An object is on a list iff its node is linked; a removed node points to itself again, so removing
 * twice is harmless and `smoe_list_linked` tells.
 */
#ifndef SMOE_BASE_LIST_H
#define SMOE_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct smoe_list {
    struct smoe_list *next;
    struct smoe_list *prev;
};

/* The object around a node that is a member of it. */
#define smoe_container_of(ptr, type, member) ((type *)((uintptr_t)(ptr)-offsetof(type, member)))

static inline void smoe_list_init(struct smoe_list *l)
{
    l->next = l->prev = l;
}

static inline bool smoe_list_empty(const struct smoe_list *head)
{
    return head->next == head;
}

static inline bool smoe_list_linked(const struct smoe_list *node)
{
    return node->next != node;
}

static inline void smoe_list_push_back(struct smoe_list *head, struct smoe_list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

static inline void smoe_list_push_front(struct smoe_list *head, struct smoe_list *node)
{
    smoe_list_push_back(head->next, node);
}

static inline void smoe_list_remove(struct smoe_list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    smoe_list_init(node);
}

/* The first node, or NULL. */
static inline struct smoe_list *smoe_list_first(const struct smoe_list *head)
{
    return smoe_list_empty(head) ? NULL : head->next;
}

#define smoe_list_for_each(it, head) \
    for (struct smoe_list *it = (head)->next; it != (head); it = it->next)

/* The same; the body may remove `it` from the list. */
#define smoe_list_for_each_safe(it, head)                                          \
    for (struct smoe_list *it = (head)->next, *it##_next = it->next; it != (head); \
         it = it##_next, it##_next = it->next)

/* Nodes on the list, counted no further than `most`. */
static inline uint32_t smoe_list_count(const struct smoe_list *head, uint32_t most)
{
    uint32_t n = 0;
    for (const struct smoe_list *it = head->next; it != head && n < most; it = it->next)
        n++;
    return n;
}

#endif
