// Session: signs people in, keeps the session and shows the chat while there is one.
import { Suspense, lazy, useCallback, useEffect, useRef, useState } from "react";
import { Banner, Brand, Button, ErrorNote, Spinner } from "../design";
import { t } from "../i18n";
import { navigate } from "../router";
import type { Running } from "./client";
import { acquire, type Held } from "./lock";
import { LoginError, returning } from "./place";
import type { Secrets } from "./security";
import { dropSession, loadSession, wipeDatabases } from "./store";

const QrSignIn = lazy(() => import("./qrsignin"));
const Chat = lazy(() => import("../chat"));
// The SDK's part of signing in loads only when somebody does.
const startLogin = (returnTo: string): Promise<void> => import("./oauth").then((m) => m.startLogin(returnTo));
const finishLogin = (): Promise<string> => import("./oauth").then((m) => m.finishLogin());

type State =
    | { at: "starting" }
    | { at: "signedOut"; note?: "ended" | "signedOut"; error?: LoginError["kind"] }
    | { at: "expired"; userId: string; error?: LoginError["kind"] }
    | { at: "elsewhere" }
    | { at: "insecure" }
    | { at: "failed"; detail: string }
    | { at: "running"; running: Running };

export default function Session() {
    const [state, setState] = useState<State>({ at: "starting" });
    const held = useRef<Held>(undefined);
    const running = useRef<Running>(undefined);
    const begun = useRef(false);

    const letGo = useCallback(async () => {
        const r = running.current;
        running.current = undefined;
        setState({ at: "elsewhere" });
        await r?.stop();
    }, []);

    const open = useCallback(
        async (force: boolean, secrets?: Secrets) => {
            const session = loadSession();
            if (!session) return setState({ at: "signedOut" });
            if (!session.accessToken) return setState({ at: "expired", userId: session.userId });
            setState({ at: "starting" });
            void import("../chat"); // loads while the client starts
            held.current = await acquire(force, letGo);
            if (!held.current) return setState({ at: "elsewhere" });
            try {
                const { start } = await import("./client");
                const r = await start(loadSession() ?? session, (why) => {
                    running.current = undefined;
                    held.current?.release();
                    setState(why === "expired" ? { at: "expired", userId: session.userId } : { at: "signedOut", note: "ended" });
                }, secrets);
                running.current = r;
                setState({ at: "running", running: r });
            } catch (e) {
                console.error("the session could not start", e);
                held.current?.release();
                setState({ at: "failed", detail: e instanceof Error ? e.message : String(e) });
            }
        },
        [letGo],
    );

    useEffect(() => {
        if (begun.current) return;
        begun.current = true;
        if (!window.isSecureContext || !navigator.locks) return setState({ at: "insecure" });
        if (!returning()) {
            // A link that means "sign me in" (the last page of an invitation) goes straight on.
            if (!loadSession() && new URLSearchParams(location.search).has("login")) {
                history.replaceState(null, "", location.pathname);
                void startLogin(location.pathname).catch((e: unknown) => setState({ at: "signedOut", error: e instanceof LoginError ? e.kind : "server" }));
                return;
            }
            void open(false);
            return;
        }
        finishLogin().then(
            (to) => {
                navigate(to, { replace: true });
                return open(true);
            },
            (e: unknown) => {
                console.warn("signing in failed", e);
                const error = e instanceof LoginError ? e.kind : "server";
                const session = loadSession();
                if (session && !session.accessToken) setState({ at: "expired", userId: session.userId, error });
                else if (session) void open(false);
                else setState({ at: "signedOut", error });
            },
        );
    }, [open]);

    const signOut = useCallback(async () => {
        const r = running.current;
        running.current = undefined;
        setState({ at: "starting" });
        await r?.signOut();
        held.current?.release();
        navigate("/", { replace: true });
        setState({ at: "signedOut", note: "signedOut" });
    }, []);

    switch (state.at) {
        case "starting":
            return <Starting />;
        case "running":
            return (
                <Suspense fallback={<Starting />}>
                    <Chat client={state.running.client} security={state.running.security} signOut={signOut} />
                </Suspense>
            );
        case "signedOut":
            return <SignIn note={state.note} error={state.error} onScanned={(secrets) => void open(true, secrets)} />;
        case "expired":
            return <SignIn userId={state.userId} error={state.error} onForget={() => setState({ at: "signedOut" })} />;
        case "elsewhere":
            return (
                <Page title={t("session.elsewhere.title")}>
                    <p className="hf-lead">{t("session.elsewhere.text")}</p>
                    <Button wide onPress={() => void open(true)} autoFocus data-testid="use-here">
                        {t("session.elsewhere.use")}
                    </Button>
                </Page>
            );
        case "insecure":
            return (
                <Page title={t("session.insecure.title")}>
                    <p className="hf-lead">{t("session.insecure.text")}</p>
                    {location.protocol === "http:" && (
                        <a className="hf-button" href={`https://${location.hostname}/`}>
                            {t("session.insecure.go")}
                        </a>
                    )}
                </Page>
            );
        case "failed":
            return (
                <Page title={t("session.failed.title")}>
                    <p className="hf-lead">{t("session.failed.text")}</p>
                    <ErrorNote>{state.detail}</ErrorNote>
                    <Button wide onPress={() => location.reload()}>
                        {t("common.retry")}
                    </Button>
                    <Button wide look="plain" onPress={() => void forget().then(() => setState({ at: "signedOut" }))}>
                        {t("session.failed.forget")}
                    </Button>
                </Page>
            );
    }
}

async function forget(): Promise<void> {
    dropSession();
    await wipeDatabases();
}

function Page({ title, children }: { title: string; children: React.ReactNode }) {
    return (
        <main className="hf-page">
            <div className="hf-card">
                <Brand />
                <h1 className="hf-title">{title}</h1>
                {children}
            </div>
        </main>
    );
}

function Starting() {
    return (
        <div className="hf-loading" role="status">
            <Spinner />
            {t("session.starting")}
        </div>
    );
}

function SignIn({
    userId,
    note,
    error,
    onForget,
    onScanned,
}: {
    userId?: string;
    note?: "ended" | "signedOut" | undefined;
    error?: LoginError["kind"] | undefined;
    onForget?: () => void;
    onScanned?: (secrets: Secrets | undefined) => void;
}) {
    const [scanning, setScanning] = useState(false);
    const [busy, setBusy] = useState(false);
    const [failed, setFailed] = useState(error);
    const [server, setServer] = useState(location.host);
    useEffect(() => {
        // Where people are: the organisation, or at least the server, by its name.
        fetch("/api/setup")
            .then(async (res) => (res.ok ? ((await res.json()) as { organisation?: string; server_name?: string }) : {}))
            .then((s) => setServer((old) => s.organisation || s.server_name || old))
            .catch(() => undefined);
    }, []);
    const go = () => {
        setBusy(true);
        setFailed(undefined);
        startLogin(location.pathname).catch((e: unknown) => {
            setBusy(false);
            setFailed(e instanceof LoginError ? e.kind : "server");
        });
    };
    if (scanning && onScanned)
        return (
            <Page title={t("qr.signIn.title")}>
                <p className="hf-lead">{t("qr.signIn.text")}</p>
                <Suspense fallback={<Spinner />}>
                    <QrSignIn onDone={onScanned} onCancel={() => setScanning(false)} />
                </Suspense>
            </Page>
        );
    return (
        <Page title={userId ? t("session.again.title") : t("session.signIn.title", { server })}>
            {note && <Banner icon="info">{t(`session.note.${note}`)}</Banner>}
            <p className="hf-lead">{userId ? t("session.again.text", { user: userId }) : t("session.signIn.text")}</p>
            <ErrorNote>{failed && t(`session.error.${failed}`)}</ErrorNote>
            <Button wide isPending={busy} onPress={go} autoFocus data-testid="login-start">
                {t("session.signIn.button")}
            </Button>
            {onScanned && (
                <Button wide look="plain" icon="phone" onPress={() => setScanning(true)} data-testid="login-qr">
                    {t("qr.signIn.button")}
                </Button>
            )}
            {onForget && (
                <Button wide look="quiet" onPress={() => void forget().then(onForget)}>
                    {t("session.again.other")}
                </Button>
            )}
            {!userId && <p className="hf-hint">{t("session.signIn.hint")}</p>}
        </Page>
    );
}
