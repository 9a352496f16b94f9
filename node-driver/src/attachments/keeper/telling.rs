//! What the node's status hears from here: whose attachments there are, and how kubelet's side stands.

use std::collections::BTreeMap;

use super::Keeper;
use crate::attachments::csidriver::CsiDriverError;
use crate::attachments::table::Table;
use crate::cluster::CsiState;
use crate::control::AttachmentId;
use crate::files::in_words;

impl Keeper {
    /// Tells the node's status whose the attachments are.
    pub(in crate::attachments) fn tell(&self, table: &Table) {
        let pods = table.records();
        let pods = pods.map(|(_, it)| (AttachmentId(it.attachment), it.pod.name.clone()));
        let pods: BTreeMap<AttachmentId, String> = pods.collect();
        self.surroundings.send_if_modified(|told| {
            let changed = told.pods != pods;
            told.pods = pods;
            changed
        });
    }

    /// The `csi` container says whether kubelet has registered it.
    pub(super) fn heard_of_kubelet(&self, registered: bool) {
        self.tell_csi(|told| match (told, registered) {
            // What is wrong with the object stays so until the object was seen again.
            (Some(CsiState::DriverMissing | CsiState::DriverInsecure(_)), true) => None,
            (_, true) => Some(CsiState::Registered),
            (_, false) => Some(CsiState::NotRegistered),
        });
    }

    pub(super) async fn validate_csi_driver(&self) -> Result<(), CsiDriverError> {
        let result = self.csi_driver.validate().await;
        let fault = result.as_ref().err().map(CsiDriverError::state);
        self.tell_csi(|told| match (fault, told) {
            (Some(fault), _) => fault,
            (None, Some(CsiState::DriverMissing | CsiState::DriverInsecure(_))) => {
                Some(CsiState::Registered)
            }
            (None, Some(CsiState::Registered | CsiState::NotRegistered) | None) => None,
        });
        result
    }

    /// Looks at the `CSIDriver` object now and then, for the node's status.
    pub(in crate::attachments) async fn look_at_csi_driver(&self) {
        self.tell_csi(|_| Some(CsiState::NotRegistered));
        loop {
            if let Err(error) = self.validate_csi_driver().await {
                tracing::warn!(error = in_words(&error), "volumes cannot be published");
            }
            tokio::time::sleep(self.review_every).await;
        }
    }

    fn tell_csi(&self, change: impl FnOnce(Option<&CsiState>) -> Option<CsiState>) {
        self.surroundings.send_if_modified(|told| {
            let changed = change(told.csi.as_ref()).filter(|csi| told.csi.as_ref() != Some(csi));
            let is_changed = changed.is_some();
            told.csi = changed.or_else(|| told.csi.take());
            is_changed
        });
    }
}
