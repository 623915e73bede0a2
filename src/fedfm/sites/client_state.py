"""Where a site keeps its client's state between rounds (SCAFFOLD's control variate, the residual of top-k, …)."""

from __future__ import annotations

import shutil
from pathlib import Path

from fedfm.hosts.job import Job
from fedfm.private import private_folder
from fedfm.records.disk import storage

JOB = "job"
"""Ending of the file beside a run's folder that holds the digest of the run's latest job."""


class ClientStateFolders:
    """One folder for each run, for this user alone. It stays when the site or the server starts again."""

    def __init__(self, root: Path) -> None:
        """Folders in ``root``, which is made with the first."""
        self._root = root

    def folder(self, job: Job, digest: str) -> Path:
        """The folder of a run, the same before and after the run was resumed.

        Args:
            job: the run's.
            digest: of the job, as the server will name it when the run ends.

        Raises:
            StorageError: it cannot be made, or belongs to another user.
        """
        folder = self._root / job.run_digest
        with storage(folder, "keep client state in"):
            private_folder(folder)
            folder.with_suffix(f".{JOB}").write_bytes(digest.encode())
        return folder

    def remove(self, job: str) -> None:
        """Removes the folder of a run that is completed; does nothing where the run has no folder.

        Args:
            job: digest of the run's latest job.

        Raises:
            StorageError: it cannot be removed.
        """
        for noted in self._root.glob(f"*.{JOB}"):
            with storage(noted, "remove the client state of"):
                if noted.read_bytes() == job.encode():
                    if (folder := noted.with_suffix("")).exists():
                        shutil.rmtree(folder)
                    noted.unlink()
