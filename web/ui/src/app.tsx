// The root of the web client. Each part is a chunk of its own: /setup and /console never load the chat.
import { Suspense, lazy } from "react";
import { t } from "./i18n";
import { usePath } from "./router";

const Setup = lazy(() => import("./setup"));
const Console = lazy(() => import("./console"));
const Chat = lazy(() => import("./session"));

export function App() {
    const path = usePath();
    const Part = /^\/setup(\/|$)/.test(path) ? Setup : /^\/console(\/|$)/.test(path) ? Console : Chat;
    return (
        <Suspense fallback={<Loading />}>
            <Part />
        </Suspense>
    );
}

function Loading() {
    return (
        <div className="hf-loading" role="status">
            <span className="hf-spinner" aria-hidden />
            {t("app.loading")}
        </div>
    );
}
