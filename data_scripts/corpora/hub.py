"""Which files a corpus has on the Hub, and what to tell a user who may not read them."""

from collections.abc import Iterator

from data_scripts.corpora.facts import CorpusError, CorpusInfo


def hub_files(info: CorpusInfo, revision: str | None) -> tuple[dict[str, str], str]:
    """Name → address of every file, and the commit they are of.

    Raises:
        CorpusError: not on the Hub, not to be had without accepting conditions, no such revision, no connection.
    """
    from huggingface_hub import HfApi

    if info.hub_id is None:
        raise CorpusError(f"{info.title} is not on the Hub: {info.how_to_get()}.\n{layout_of(info)}")
    try:
        api = HfApi()
        if (
            info.gated
        ):  # the list of files is public; that they are not would show after the first of them is asked for
            api.auth_check(info.hub_id, repo_type="dataset")
        found = api.dataset_info(info.hub_id, revision=revision)
    except Exception as error:
        if clear := explained(error, info, revision):
            raise clear from None
        raise
    commit = found.sha or revision or "main"
    names = [sibling.rfilename for sibling in found.siblings or []]
    return {name: f"hf://datasets/{info.hub_id}@{commit}/{name}" for name in names}, commit


def explained(error: BaseException, info: CorpusInfo, revision: str | None = None) -> CorpusError | None:
    """What to do about an error of the Hub, or None if it is no such error."""
    from huggingface_hub import errors, get_token

    page = f"https://huggingface.co/datasets/{info.hub_id}"
    local = "or set data_dir to a local copy (`show` prints its layout)"
    for cause in _chain(error):
        if isinstance(cause, CorpusError):
            return cause
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(cause, errors.RevisionNotFoundError):
            return CorpusError(f"{info.hub_id} has no revision {revision!r}; see {page}/tree/main")
        gated = isinstance(cause, errors.GatedRepoError)
        if isinstance(cause, errors.RepositoryNotFoundError) and not gated:  # the one is a kind of the other
            return CorpusError(f"{info.hub_id} is not on the Hub any more, or private: see {page}, {local}")
        if gated or status in (401, 403):
            token = "this account has not been let in yet" if get_token() else "no token was found"
            return CorpusError(
                f"{info.title} ({info.hub_id}) is gated and {token}: open {page}, accept the conditions, run "
                f"`hf auth login`, {local}"
            )
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return CorpusError(f"{info.hub_id} is on the Hub and HF_HUB_OFFLINE is set: unset it, {local}")
        # By name: which of the HTTP clients of one family is in use is the business of huggingface_hub.
        names = {base.__name__ for base in type(cause).__mro__}
        if names & {"TransportError", "ConnectionError"}:
            return CorpusError(
                f"{info.hub_id} cannot be reached ({type(cause).__name__}): run it again later, {local}"
            )
        if isinstance(cause, errors.HfHubHTTPError):
            return CorpusError(f"{info.hub_id} cannot be read: the Hub answered {status}: run it again later, {local}")
    return None


def layout_of(info: CorpusInfo) -> str:
    """The documented tree, for the end of a message."""
    return f"A local copy looks like this:\n{info.layout}" if info.layout else "There is no local form but the Hub's."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
