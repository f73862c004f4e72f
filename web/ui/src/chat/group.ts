// Turns a run of events into the rows of a timeline: days, the unread line, messages grouped by sender, and
// small changes gathered. Pure, so that it can be tested without a client.
export interface RowEvent {
    id: string;
    sender: string;
    ts: number;
    kind: "message" | "change";
}

export type Row<E extends RowEvent> =
    | { type: "day"; key: string; ts: number }
    | { type: "unread"; key: string }
    | { type: "message"; key: string; event: E; first: boolean; last: boolean }
    | { type: "changes"; key: string; events: E[] };

const groupWithinMs = 5 * 60_000;

const dayOf = (ts: number): string => {
    const d = new Date(ts);
    return `${d.getFullYear()}-${d.getMonth()}-${d.getDate()}`;
};

/**
 * firstUnread finds the first message from others after the event that had been read. That event may be one that is
 * not shown, such as a reaction: all holds the IDs of all loaded events, oldest first.
 */
export function firstUnread(events: RowEvent[], all: readonly string[], readUpTo: string | undefined, me: string): string | undefined {
    const at = readUpTo ? all.lastIndexOf(readUpTo) : -1;
    if (at < 0) return undefined;
    const news = new Set(all.slice(at + 1));
    return events.find((e) => news.has(e.id) && e.sender !== me && e.kind === "message")?.id;
}

/** newSince counts the messages from others that came after the event with an ID. */
export function newSince(events: RowEvent[], id: string, me: string): number {
    const at = events.findIndex((e) => e.id === id);
    return (at < 0 ? events.slice(-1) : events.slice(at + 1)).filter((e) => e.sender !== me && e.kind === "message").length;
}

/** toRows lays events out. The unread line stands before the event lineAt. */
export function toRows<E extends RowEvent>(events: E[], lineAt: string | undefined): Row<E>[] {
    const rows: Row<E>[] = [];
    let day = "";
    for (const event of events) {
        const today = dayOf(event.ts);
        if (today !== day) {
            day = today;
            rows.push({ type: "day", key: `day ${today} ${event.id}`, ts: event.ts });
        }
        if (event.id === lineAt) rows.push({ type: "unread", key: "unread" });
        const before = rows[rows.length - 1];
        if (event.kind === "change") {
            if (before?.type === "changes") before.events.push(event);
            else rows.push({ type: "changes", key: `changes ${event.id}`, events: [event] });
            continue;
        }
        const joins = before?.type === "message" && before.event.sender === event.sender && event.ts - before.event.ts < groupWithinMs;
        if (joins) before.last = false;
        rows.push({ type: "message", key: event.id, event, first: !joins, last: true });
    }
    return rows;
}
