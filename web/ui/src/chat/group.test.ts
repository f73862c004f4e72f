import { describe, expect, it } from "vitest";
import { firstUnread, newSince, type RowEvent, toRows } from "./group";

const noon = new Date(2026, 10, 23, 12).getTime();
const minute = 60_000;
const event = (id: string, sender: string, ts: number, kind: RowEvent["kind"] = "message"): RowEvent => ({ id, sender, ts, kind });
const shape = (events: RowEvent[], line?: string): string[] =>
    toRows(events, line).map((r) => (r.type === "message" ? `${r.event.id}${r.first ? "<" : ""}${r.last ? ">" : ""}` : r.type === "changes" ? `changes:${r.events.map((e) => e.id).join("+")}` : r.type));

describe("toRows", () => {
    it("joins messages of one person that follow closely", () => {
        expect(shape([event("1", "a", noon), event("2", "a", noon + minute), event("3", "b", noon + 2 * minute), event("4", "a", noon + 3 * minute)])).toEqual(["day", "1<", "2>", "3<>", "4<>"]);
    });
    it("parts them after a pause", () => {
        expect(shape([event("1", "a", noon), event("2", "a", noon + 6 * minute)])).toEqual(["day", "1<>", "2<>"]);
    });
    it("parts them at midnight", () => {
        const late = new Date(2026, 10, 23, 23, 59).getTime();
        expect(shape([event("1", "a", late), event("2", "a", late + 2 * minute)])).toEqual(["day", "1<>", "day", "2<>"]);
    });
    it("gathers changes", () => {
        expect(shape([event("1", "a", noon), event("2", "b", noon, "change"), event("3", "c", noon, "change"), event("4", "a", noon)])).toEqual(["day", "1<>", "changes:2+3", "4<>"]);
    });
    it("draws the unread line before its message, which starts a group", () => {
        expect(shape([event("1", "a", noon), event("2", "a", noon + 1)], "2")).toEqual(["day", "1<>", "unread", "2<>"]);
    });
    it("gives every row its own key", () => {
        const rows = toRows([event("1", "a", noon), event("2", "b", noon, "change"), event("3", "a", noon + 1)], "3");
        expect(new Set(rows.map((r) => r.key)).size).toBe(rows.length);
    });
});

describe("firstUnread", () => {
    const events = [event("1", "a", noon), event("2", "me", noon + 1), event("3", "b", noon + 2, "change"), event("4", "a", noon + 3)];
    it.each([
        ["1", "4"], // one's own messages and changes are not news
        ["4", undefined],
        ["gone", undefined],
        ["a reaction to 1", "4"], // read, but not shown
        ["a reaction to 4", undefined],
        [undefined, undefined],
    ])("after %s it is %s", (read, want) => expect(firstUnread(events, ["1", "a reaction to 1", "2", "3", "4", "a reaction to 4"], read, "me")).toBe(want));
});

describe("newSince", () => {
    const events = [event("1", "a", noon), event("2", "a", noon), event("3", "b", noon, "change"), event("4", "me", noon), event("5", "b", noon)];
    it.each([
        ["1", 2], // neither changes nor one's own
        ["4", 1],
        ["5", 0],
        ["gone", 1],
    ])("after %s there are %d", (id, want) => expect(newSince(events, id, "me")).toBe(want));
});
