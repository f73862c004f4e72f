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

/** toRows lays events out. The unread line stands after the event unreadAfter, if anything from others follows. */
export function toRows<E extends RowEvent>(events: E[], unreadAfter: string | undefined, me: string): Row<E>[] {
    const rows: Row<E>[] = [];
    let day = "";
    let line = -1;
    if (unreadAfter) {
        const at = events.findIndex((e) => e.id === unreadAfter);
        if (at >= 0) line = events.findIndex((e, i) => i > at && e.sender !== me && e.kind === "message");
    }
    events.forEach((event, i) => {
        const today = dayOf(event.ts);
        if (today !== day) {
            day = today;
            rows.push({ type: "day", key: `day ${today} ${event.id}`, ts: event.ts });
        }
        if (i === line) rows.push({ type: "unread", key: "unread" });
        const before = rows[rows.length - 1];
        if (event.kind === "change") {
            if (before?.type === "changes") before.events.push(event);
            else rows.push({ type: "changes", key: `changes ${event.id}`, events: [event] });
            return;
        }
        const joins = before?.type === "message" && before.event.sender === event.sender && event.ts - before.event.ts < groupWithinMs;
        if (joins) before.last = false;
        rows.push({ type: "message", key: event.id, event, first: !joins, last: true });
    });
    return rows;
}
