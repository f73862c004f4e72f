// What every part of the chat shares: the client, and hooks that follow its events.
import { createContext, useContext, useEffect, useReducer, useRef, useState, useSyncExternalStore } from "react";
import { ClientEvent, type MatrixClient, type RoomMember, SyncState } from "matrix-js-sdk";
import type { Security, SecurityState } from "../session/security";

export interface ChatContext {
    client: MatrixClient;
    security: Security;
    signOut: () => Promise<void>;
}

const Context = createContext<ChatContext | undefined>(undefined);
export const ChatProvider = Context.Provider;

export function useChat(): ChatContext {
    const c = useContext(Context);
    if (!c) throw new Error("outside of the chat");
    return c;
}
export const useClient = (): MatrixClient => useChat().client;

interface Emitter {
    on: (event: never, listener: (...args: never[]) => void) => unknown;
    off: (event: never, listener: (...args: never[]) => void) => unknown;
}

/** useOn calls a handler for each of the events while the component is there. */
export function useOn(emitter: unknown, events: readonly string[], handler: (...args: never[]) => void): void {
    const latest = useRef(handler);
    useEffect(() => {
        latest.current = handler;
    });
    const names = events.join(" ");
    useEffect(() => {
        if (!emitter) return;
        const e = emitter as Emitter;
        const call = (...args: never[]): void => latest.current(...args);
        for (const name of names.split(" ")) e.on(name as never, call);
        return () => {
            for (const name of names.split(" ")) e.off(name as never, call);
        };
    }, [emitter, names]);
}

/** useRefresh renders again after any of the events, at most once a frame. Gives a number that grows each time. */
export function useRefresh(emitter: unknown, events: readonly string[], when?: (...args: never[]) => boolean): number {
    const [n, bump] = useReducer((x: number) => x + 1, 0);
    const queued = useRef(0);
    useOn(emitter, events, (...args) => {
        if (when && !when(...args)) return;
        if (queued.current) return;
        // A hidden tab has no frames.
        const run = (): void => {
            queued.current = 0;
            bump();
        };
        queued.current = document.hidden ? window.setTimeout(run, 50) : requestAnimationFrame(run);
    });
    // What happened between the first rendering and the subscription was not heard: after a reload that is
    // where the first sync falls.
    useEffect(bump, [bump, emitter]);
    return n;
}

export function useSecurity(): SecurityState {
    const { security } = useChat();
    return useSyncExternalStore(security.subscribe, security.snapshot);
}

/** useOnline says whether the server answers. */
export function useOnline(): boolean {
    const client = useClient();
    useRefresh(client, [ClientEvent.Sync]);
    const state = client.getSyncState();
    return state !== SyncState.Error && state !== SyncState.Reconnecting;
}

/** The event by which the settings say that the own profile was changed here. */
export const profileChanged = "holdfast:profile";

/** useMe gives the person's own name and picture. Without presence the server says them only when asked. */
export function useMe(): { name: string; picture: string | undefined } {
    const client = useClient();
    const userId = client.getSafeUserId();
    useRefresh(client, ["User.displayName", "User.avatarUrl"]);
    const [asked, setAsked] = useState<{ displayname?: string; avatar_url?: string }>();
    useEffect(() => {
        let gone = false;
        const ask = (): void =>
            void client.getProfileInfo(userId).then(
                (p) => gone || setAsked(p),
                () => undefined,
            );
        ask();
        // Who is in no chat yet hears of a change of the own profile from nobody else.
        addEventListener(profileChanged, ask);
        return () => {
            gone = true;
            removeEventListener(profileChanged, ask);
        };
    }, [client, userId]);
    const user = client.getUser(userId);
    const known = user?.displayName && user.displayName !== userId ? user.displayName : undefined;
    return { name: known ?? asked?.displayname ?? localpart(userId), picture: user?.avatarUrl ?? asked?.avatar_url };
}

/** nameOf is what a person is called in a chat; two of the same name are told apart by their user name. */
export function nameOf(member: RoomMember | null | undefined, userId: string): string {
    return member?.name?.trim() || member?.rawDisplayName?.trim() || localpart(userId);
}

export function localpart(userId: string): string {
    return /^@([^:]*)/.exec(userId)?.[1] ?? userId;
}
