// Bridges and bots: the application services, and how it goes with each. They are registered at the command line,
// where their files are.
import { useState } from "react";
import { Button, Confirm, Empty, ErrorNote, toast } from "../design";
import { t } from "../i18n";
import { api, messageOf } from "../setup/api";
import { date, useLoaded } from "./load";

interface Bridge {
    id: string;
    url: string;
    user_id: string;
    file?: string;
    waiting: number;
    last_taken?: string;
    failing_since?: string;
    trouble?: string;
}

export function BridgesPage() {
    const { value: bridges, error, reload } = useLoaded<Bridge[]>("/api/console/bridges", 5);
    const [asked, setAsked] = useState<Bridge>();
    const retry = async (b: Bridge): Promise<void> => {
        await api("POST", "/api/console/bridges/retry", { id: b.id });
        toast(t("console.bridges.retried", { name: b.id }));
        await reload();
    };
    return (
        <>
            <h1>{t("console.bridges.title")}</h1>
            <ErrorNote>{error}</ErrorNote>
            {bridges?.length === 0 && <Empty icon="link" title={t("console.bridges.none")} />}
            <ul className="console-list" data-testid="bridges">
                {(bridges ?? []).map((b) => (
                    <li key={b.id}>
                        <span className="console-who">
                            <b>{b.id}</b>
                            <span className="hf-hint">
                                {b.user_id} {b.url && t("console.bridges.address", { url: b.url })}
                            </span>
                            {b.file && <span className="hf-hint">{t("console.bridges.byFile", { file: b.file })}</span>}
                            {b.trouble && <span className="console-trouble">{b.trouble}</span>}
                        </span>
                        <span className="console-tags">
                            {b.trouble ? <span className="hf-tag hf-tag--warn">{t("console.bridges.away", { when: date(b.failing_since) })}</span> : b.last_taken ? <span className="hf-tag hf-tag--ok">{t("console.bridges.works")}</span> : <span className="hf-tag">{t(b.url ? "console.bridges.idle" : "console.bridges.mute")}</span>}
                        </span>
                        <span className="hf-hint console-when">
                            {t("console.bridges.waiting", { count: b.waiting })}
                            {b.last_taken && (
                                <>
                                    <br />
                                    {t("console.bridges.taken", { when: date(b.last_taken) })}
                                </>
                            )}
                        </span>
                        {b.trouble && (
                            <Button look="plain" onPress={() => void retry(b).catch((e) => toast(messageOf(e)))}>
                                {t("console.bridges.retry")}
                            </Button>
                        )}
                        {!b.file && (
                            <Button look="plain" icon="trash" onPress={() => setAsked(b)}>
                                {t("console.bridges.remove")}
                            </Button>
                        )}
                    </li>
                ))}
            </ul>
            <p className="hf-hint">{t("console.bridges.how")}</p>
            {asked && (
                <Confirm
                    title={t("console.bridges.removeTitle", { name: asked.id })}
                    yes={t("console.bridges.remove")}
                    danger
                    isOpen
                    onYes={async () => {
                        await api("POST", "/api/console/bridges/remove", { id: asked.id });
                        toast(t("console.bridges.removed", { name: asked.id }));
                        await reload();
                    }}
                    onClose={() => setAsked(undefined)}
                >
                    {t("console.bridges.removeText")}
                </Confirm>
            )}
        </>
    );
}
