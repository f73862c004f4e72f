// What was written while the server could not be reached goes out by itself when it answers again.
import { ClientEvent, EventStatus, type MatrixClient, type MatrixEvent, SyncState } from "matrix-js-sdk";
import { useCallback, useEffect, useRef } from "react";
import { useOn } from "./context";
import { uploadsOf } from "./uploads";

/** waitsForConnection says whether a message failed only because there was no connection. */
export function waitsForConnection(event: MatrixEvent): boolean {
    return event.status === EventStatus.NOT_SENT && (event.error as Error | null)?.name === "ConnectionError";
}

async function resend(client: MatrixClient, which: (e: MatrixEvent) => boolean): Promise<void> {
    for (const room of client.getRooms()) {
        // In the order in which they were written; the first failure means that the connection is gone again.
        for (const event of room.getPendingEvents().filter(which)) {
            try {
                await client.resendEvent(event, room);
            } catch {
                return;
            }
        }
    }
}

const everyMs = 8000;

export function useResend(client: MatrixClient): void {
    const busy = useRef(false);
    const run = useCallback(
        async (which: (e: MatrixEvent) => boolean) => {
            if (busy.current) return;
            busy.current = true;
            await resend(client, which).finally(() => (busy.current = false));
        },
        [client],
    );
    useEffect(() => {
        // Messages of an earlier visit that never went out are kept by the store, without the reason.
        void run((e) => e.status === EventStatus.NOT_SENT);
        // The long poll may outlive a short break, so its state alone does not tell.
        const timer = setInterval(() => void run(waitsForConnection), everyMs);
        const online = (): void => {
            client.retryImmediately();
            void run(waitsForConnection);
        };
        window.addEventListener("online", online);
        return () => {
            clearInterval(timer);
            window.removeEventListener("online", online);
        };
    }, [client, run]);
    useOn(client, [ClientEvent.Sync], (state: SyncState, before: SyncState | null) => {
        if (state !== SyncState.Syncing || before === SyncState.Syncing) return;
        uploadsOf(client).retryOffline();
        void run(waitsForConnection);
    });
}
