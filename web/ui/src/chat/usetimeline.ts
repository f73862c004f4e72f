// The window on a chat's history: a bounded run of events that grows at either end on demand and follows new
// messages while it stands at the end.
import { useCallback, useEffect, useRef, useState } from "react";
import { Direction, type MatrixClient, type MatrixEvent, MatrixEventEvent, type Room, RoomEvent, TimelineWindow } from "matrix-js-sdk";
import { useOn, useRefresh } from "./context";

const pageSize = 30;
// More events than this are never laid out at once; the far end is dropped and comes back on demand.
const mostEvents = 300;
// So many pages are taken when a chat opens, to reach what was read last.
const mostPages = 9;

export interface Timeline {
    events: MatrixEvent[];
    /** Messages that are not confirmed by the server yet, or failed. */
    pending: MatrixEvent[];
    state: "loading" | "ready" | "failed";
    busy: "back" | "forward" | undefined;
    /** Older (newer) messages can be asked for. */
    canBack: boolean;
    canForward: boolean;
    /** Asking for older messages failed, for example offline. */
    backFailed: boolean;
    back: () => void;
    forward: () => void;
    /** Goes to one event, or to the newest messages. */
    goTo: (eventId: string | undefined) => void;
    /** Grows with every change of what is to be shown. */
    version: number;
}

/** useTimeline opens the window at the newest messages; reach is an event that it should hold then, if it is not too far. */
export function useTimeline(client: MatrixClient, room: Room, reach?: string): Timeline {
    const window = useRef<TimelineWindow>(undefined);
    const [state, setState] = useState<Timeline["state"]>("loading");
    const [busy, setBusy] = useState<Timeline["busy"]>();
    const [backFailed, setBackFailed] = useState(false);
    const [target, setTarget] = useState<{ eventId: string | undefined; n: number }>({ eventId: undefined, n: 0 });
    const [moved, setMoved] = useState(0);
    const busyRef = useRef(false);

    useEffect(() => {
        let gone = false;
        const w = new TimelineWindow(client, room.getUnfilteredTimelineSet(), { windowLimit: mostEvents });
        setState("loading");
        setBackFailed(false);
        window.current = undefined;
        w.load(target.eventId, pageSize)
            .then(async () => {
                // The events of the first sync may be all reactions and edits: fill the screen.
                for (let i = 0; !gone && i < 4 && w.getEvents().length < pageSize && w.canPaginate(Direction.Backward); i++) {
                    if (!(await w.paginate(Direction.Backward, pageSize))) break;
                }
                if (target.eventId !== undefined || reach === undefined) return;
                for (let i = 0; !gone && i < mostPages && w.canPaginate(Direction.Backward) && !w.getEvents().some((e) => e.getId() === reach); i++) {
                    if (!(await w.paginate(Direction.Backward, pageSize))) break;
                }
            })
            .then(
                () => {
                    if (gone) return;
                    window.current = w;
                    setState("ready");
                    setMoved((n) => n + 1);
                },
                () => gone || (setState(w.getEvents().length ? "ready" : "failed"), (window.current = w)),
            );
        return () => {
            gone = true;
        };
    }, [client, room, target, reach]);

    const page = useCallback((dir: Direction) => {
        const w = window.current;
        if (!w || busyRef.current || !w.canPaginate(dir)) return;
        busyRef.current = true;
        setBusy(dir === Direction.Backward ? "back" : "forward");
        w.paginate(dir, pageSize)
            .then(
                () => setBackFailed(false),
                () => dir === Direction.Backward && setBackFailed(true),
            )
            .finally(() => {
                busyRef.current = false;
                setBusy(undefined);
                setMoved((n) => n + 1);
            });
    }, []);

    useOn(room, [RoomEvent.Timeline], (event: MatrixEvent, r: Room | undefined, toStart: boolean | undefined, _removed: boolean, data: { liveEvent?: boolean }) => {
        const w = window.current;
        if (r !== room || toStart || !data.liveEvent || !w || event.getRoomId() !== room.roomId) return;
        // Takes the new event in without asking the server; does nothing while the window stands in the past.
        void w.paginate(Direction.Forward, 1, false);
    });
    useOn(room, [RoomEvent.TimelineReset], () => setTarget((old) => ({ eventId: undefined, n: old.n + 1 })));

    const version = useRefresh(room, [RoomEvent.Timeline, RoomEvent.LocalEchoUpdated, RoomEvent.Redaction, RoomEvent.Receipt, "RoomState.events", "RoomState.members"]);
    const decrypted = useRefresh(client, [MatrixEventEvent.Decrypted], (event: MatrixEvent) => event.getRoomId() === room.roomId);
    const w = window.current;
    return {
        events: w?.getEvents() ?? [],
        pending: room.getPendingEvents(),
        state,
        busy,
        canBack: !!w?.canPaginate(Direction.Backward),
        canForward: !!w?.canPaginate(Direction.Forward),
        backFailed,
        back: useCallback(() => page(Direction.Backward), [page]),
        forward: useCallback(() => page(Direction.Forward), [page]),
        goTo: useCallback((eventId: string | undefined) => setTarget((old) => ({ eventId, n: old.n + 1 })), []),
        version: version + moved + decrypted,
    };
}
