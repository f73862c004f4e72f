// The chat client: the list of chats beside one chat or the settings; on a narrow window one of them at a time.
import { lazy, Suspense, useCallback, useEffect, useMemo, useState } from "react";
import { ClientEvent, type MatrixClient, type Room } from "matrix-js-sdk";
import { RingingNotice } from "../call/ringing";
import { Banner, Button, Empty, Spinner, Toasts } from "../design";
import { t } from "../i18n";
import { navigate, usePath } from "../router";
import type { Security } from "../session/security";
import { ChatProvider, useClient, useOnline, useRefresh } from "./context";
import { InviteLink, NewDirect, NewGroup, OpenGroups, placeOf } from "./dialogs";
import { forgetMedia } from "./media";
import { useNotifications } from "./notify";
import { useResend } from "./resend";
import { RoomPane } from "./room";
import { RoomList, type Start } from "./roomlist";
import { ConfirmDevice, Reset, SaveKey, type SecurityDialog, SecurityPrompt, Verification } from "./securityui";
import { Settings } from "./settings";
import "./chat.css";

const CallView = lazy(() => import("../call"));

export interface ChatProps {
    client: MatrixClient;
    security: Security;
    signOut: () => Promise<void>;
}

export default function Chat({ client, security, signOut }: ChatProps) {
    const value = useMemo(() => ({ client, security, signOut: () => signOut().then(forgetMedia) }), [client, security, signOut]);
    return (
        <ChatProvider value={value}>
            <Shell />
        </ChatProvider>
    );
}

interface Place {
    roomId?: string;
    settings?: string;
}

function placeIn(path: string): Place {
    const [, first, second] = path.split("/");
    if (first === "chat" && second) {
        try {
            return { roomId: decodeURIComponent(second) };
        } catch {
            return {};
        }
    }
    if (first === "settings") return { settings: second ?? "profile" };
    return {};
}

function Shell() {
    const client = useClient();
    const { roomId, settings } = placeIn(usePath());
    const [start, setStart] = useState<Start>();
    const [secure, setSecure] = useState<SecurityDialog>();
    const [call, setCall] = useState<{ room: Room; intent: "audio" | "video" }>();
    useRefresh(client, [ClientEvent.Room, ClientEvent.DeleteRoom]);
    useNotifications(roomId);
    useResend(client);
    const room = roomId ? client.getRoom(roomId) : null;
    const confirmDevice = useCallback(() => setSecure("confirm"), []);
    const startCall = useCallback((r: Room, intent: "audio" | "video") => {
        setCall((running) => running ?? { room: r, intent });
    }, []);

    // Shortcuts: Ctrl+K searches the chats.
    useEffect(() => {
        const onKey = (e: KeyboardEvent): void => {
            if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === "k") {
                e.preventDefault();
                document.querySelector<HTMLInputElement>('[data-testid="room-search"]')?.focus();
            }
        };
        window.addEventListener("keydown", onKey);
        return () => window.removeEventListener("keydown", onKey);
    }, []);

    const open = !!roomId || settings !== undefined;
    return (
        <div className={`shell${open ? " shell--open" : ""}`}>
            <Connection />
            {/* On a narrow screen the list is all there is, so it belongs to what the page is about. */}
            <main className="panes">
                <RoomList current={roomId} onStart={setStart}>
                    <SecurityPrompt onOpen={setSecure} />
                </RoomList>
                <div className="pane">
                    {settings !== undefined ? (
                        <Settings section={settings} onSecurity={setSecure} />
                    ) : room ? (
                        <RoomPane key={room.roomId} room={room} startCall={startCall} inCall={!!call} confirmDevice={confirmDevice} />
                    ) : roomId ? (
                        <Missing roomId={roomId} />
                    ) : (
                        <Empty icon="chat" title={t("shell.pick.title")}>
                            <p>{t("shell.pick.text")}</p>
                        </Empty>
                    )}
                </div>
            </main>
            {call && (
                <Suspense fallback={null}>
                    <CallView client={client} room={call.room} intent={call.intent} onEnd={() => setCall(undefined)} />
                </Suspense>
            )}
            <RingingNotice
                client={client}
                inCall={call?.room.roomId}
                onAnswer={(r, intent) => {
                    navigate(placeOf(r.roomId));
                    startCall(r, intent);
                }}
            />
            {start === "direct" && <NewDirect onClose={() => setStart(undefined)} />}
            {start === "group" && <NewGroup onClose={() => setStart(undefined)} />}
            {start === "open" && <OpenGroups onClose={() => setStart(undefined)} />}
            {start === "link" && <InviteLink onClose={() => setStart(undefined)} />}
            {secure === "save" && <SaveKey onClose={() => setSecure(undefined)} />}
            {secure === "confirm" && <ConfirmDevice onClose={() => setSecure(undefined)} onReset={() => setSecure("reset")} />}
            {secure === "reset" && <Reset onClose={() => setSecure(undefined)} />}
            <Verification />
            <Toasts />
        </div>
    );
}

/** Connection says when the server does not answer, and that nothing needs to be done. */
function Connection() {
    const client = useClient();
    const online = useOnline();
    const [shown, setShown] = useState(false);
    useEffect(() => {
        // A hiccup of a second is nobody's business.
        const timer = setTimeout(() => setShown(!online), online ? 0 : 1500);
        return () => clearTimeout(timer);
    }, [online]);
    if (!shown) return null;
    return (
        <Banner
            icon="wifiOff"
            kind="warn"
            role="status"
            action={
                <Button look="plain" onPress={() => client.retryImmediately()}>
                    {t("shell.retryNow")}
                </Button>
            }
        >
            {t("shell.offline")}
        </Banner>
    );
}

/** Missing waits a little for a chat that is not known yet (a fresh link), then says so. */
function Missing({ roomId }: { roomId: string }) {
    const [waited, setWaited] = useState(false);
    useEffect(() => {
        setWaited(false);
        const timer = setTimeout(() => setWaited(true), 5000);
        return () => clearTimeout(timer);
    }, [roomId]);
    if (!waited)
        return (
            <div className="timeline-wait" role="status">
                <Spinner />
                {t("app.loading")}
            </div>
        );
    return (
        <Empty icon="chat" title={t("shell.missing.title")}>
            <p>{t("shell.missing.text")}</p>
            <Button look="plain" onPress={() => navigate("/", { replace: true })}>
                {t("room.back")}
            </Button>
        </Empty>
    );
}
