"""The environment variables that a service reads."""

from __future__ import annotations

from services.coordinator.settings import CoordinatorSettings
from services.inference.settings import InferenceSettings
from services.learner.settings import LearnerSettings
from services.reward.settings import RewardSettings
from syncline.settings import ServiceSettings

_SETTINGS: dict[str, type[ServiceSettings]] = {
    "coordinator": CoordinatorSettings,
    "inference": InferenceSettings,
    "learner": LearnerSettings,
    "reward": RewardSettings,
}


def settings_of(service: str) -> frozenset[str]:
    """Names of the variables behind the fields of the service's settings."""
    return frozenset(f"SYNCLINE_{name.upper()}" for name in _SETTINGS[service].model_fields)
