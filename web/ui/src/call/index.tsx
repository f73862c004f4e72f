// The call in a chat: hosts the call widget. The chat mounts CallView in one place for as long as the call
// lasts and moves it by CSS only, for an iframe that moves in the document reloads.
import type { MatrixClient, Room } from "matrix-js-sdk";
import { useCallback, useEffect, useRef, useState } from "react";
import { Button, IconButton, Spinner } from "../design";
import { t } from "../i18n";
import { isDirect, useRoomCall } from "./state";
import { addresses } from "./transport";
import { CallChannel, type CallOptions, callUrl, endMembership, shownTheme } from "./widget";
import "./call.css";

export interface CallViewProps {
    client: MatrixClient;
    room: Room;
    /** What to start with; joining a running call ignores it. */
    intent: "audio" | "video";
    /** Called once when the person has left or the call could not start. */
    onEnd: () => void;
}

// How long the widget may take to start, and to leave when asked, before we act without it.
const startTimeout = 45_000;
const leaveTimeout = 4_000;

export default function CallView({ client, room, intent, onEnd }: CallViewProps) {
    const users = useRoomCall(client, room);
    const frame = useRef<HTMLIFrameElement>(null);
    const channel = useRef<CallChannel>(undefined);
    const ended = useRef(false);
    const [mini, setMini] = useState(false);
    const [phase, setPhase] = useState<"starting" | "in" | "leaving">("starting");
    const [failure, setFailure] = useState<string>();
    const [since, setSince] = useState<number>();

    const end = useCallback(() => {
        if (ended.current) return;
        ended.current = true;
        channel.current?.stop();
        channel.current = undefined;
        onEnd();
    }, [onEnd]);
    const latestEnd = useRef(end);
    latestEnd.current = end;

    // One channel for the life of the view: the iframe must not start over when something re-renders.
    useEffect(() => {
        const iframe = frame.current;
        if (!iframe) return;
        let gone = false;
        let timer: ReturnType<typeof setTimeout> | undefined;
        void (async () => {
            const [sticky, relay] = await Promise.all([client.doesServerSupportUnstableFeature("org.matrix.msc4354").catch(() => false), addresses(client)]);
            if (gone) return;
            const me = client.getSafeUserId();
            const running = client.matrixRTC.getRoomSession(room).memberships.some((m) => m.userId !== me);
            const options: CallOptions = { client, room, intent, direct: isDirect(client, room), running };
            const id = `holdfast-call-${crypto.randomUUID()}`;
            iframe.src = callUrl(options, id); // before the channel: it talks to the window that is loaded next
            channel.current = new CallChannel(iframe, id, { ...options, sticky, relay }, {
                joined: () => {
                    clearTimeout(timer);
                    setPhase("in");
                    setSince((s) => s ?? Date.now());
                },
                left: () => setTimeout(() => latestEnd.current(), 300), // "closed" normally comes first
                closed: () => latestEnd.current(),
                failed: (e) => setFailure(e.message),
            });
        })();
        timer = setTimeout(() => setFailure((f) => f ?? t("call.slow")), startTimeout);
        return () => {
            gone = true;
            clearTimeout(timer);
            channel.current?.stop();
            channel.current = undefined;
        };
    }, [client, room, intent]);

    // The widget waits in its lobby for as long as the person likes: only a frame that never loads is a failure.
    const loaded = useRef(false);
    useEffect(() => {
        const iframe = frame.current;
        const done = (): void => void (loaded.current = true);
        iframe?.addEventListener("load", done);
        return () => iframe?.removeEventListener("load", done);
    }, []);

    useEffect(() => {
        const tell = (): void => channel.current?.theme(shownTheme());
        const watch = new MutationObserver(tell);
        watch.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
        const media = matchMedia("(prefers-color-scheme: dark)");
        media.addEventListener("change", tell);
        return () => {
            watch.disconnect();
            media.removeEventListener("change", tell);
        };
    }, []);

    const hangUp = async (): Promise<void> => {
        if (phase === "leaving") return;
        setPhase("leaving");
        const timeout = new Promise<"late">((done) => setTimeout(() => done("late"), leaveTimeout));
        const answer = await Promise.race([channel.current?.hangUp().catch(() => "late" as const), timeout]);
        if (answer === "late") await endMembership(client, room).catch(() => undefined);
        setTimeout(() => latestEnd.current(), 500);
    };

    const others = users.filter((u) => u !== client.getSafeUserId()).length;
    return (
        <section className={`call ${mini ? "call--mini" : "call--full"}`} aria-label={t("call.title", { room: room.name })} data-testid="call" data-phase={phase}>
            <header className="call-bar">
                <div className="call-what">
                    <strong>{room.name}</strong>
                    <span className="call-detail" aria-live="polite">
                        {phase === "leaving" ? t("call.leaving") : phase === "in" && others > 0 ? t("call.others", { count: others }) : phase === "in" ? t("call.alone") : t("call.ready")}
                        {phase === "in" && since !== undefined && !mini && <Clock since={since} />}
                    </span>
                </div>
                <IconButton icon={mini ? "maximize" : "minimize"} label={mini ? t("call.expand") : t("call.minimise")} onPress={() => setMini(!mini)} data-testid="call-size" />
                <IconButton icon="phoneOff" label={t("call.hangUp")} className="call-hangup" onPress={() => void hangUp()} data-testid="call-hangup" />
            </header>
            <div className="call-frame">
                {failure === undefined && (
                    <div className="call-wait" role="status">
                        <Spinner />
                        {t("call.loading")}
                    </div>
                )}
                <iframe
                    ref={frame}
                    title={t("call.title", { room: room.name })}
                    allow="camera; microphone; display-capture; autoplay; fullscreen; clipboard-write; screen-wake-lock; speaker-selection"
                    data-testid="call-frame"
                />
                {failure !== undefined && phase === "starting" && !loaded.current && (
                    <div className="call-failed" role="alert">
                        <p>{t("call.failed", { why: failure })}</p>
                        <Button onPress={end}>{t("call.close")}</Button>
                    </div>
                )}
            </div>
        </section>
    );
}

function Clock({ since }: { since: number }) {
    const [now, setNow] = useState(Date.now());
    useEffect(() => {
        const timer = setInterval(() => setNow(Date.now()), 1000);
        return () => clearInterval(timer);
    }, []);
    const s = Math.max(0, Math.floor((now - since) / 1000));
    const text = `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
    return (
        <span className="call-clock" aria-hidden="true">
            {text}
        </span>
    );
}
