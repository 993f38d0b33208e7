// SPDX-License-Identifier: Apache-2.0
// A dataset at a glance: a contact sheet, and a page with every crop, its caption and what is
// wrong.
#pragma once

#include <filesystem>

#include "prepare/prepare.h"

namespace fluxlora::prepare {

/// Writes FOLDER/contact_sheet.png: the pictures of the dataset, row by row in the order of their
/// names, at most 256 pixels each and about 4096 together. Throws Error (environment).
void write_contact_sheet(const std::filesystem::path& folder, const Report& report);

/// Writes FOLDER/dataset.html: every crop at its place in the frame of its source, who found it,
/// its caption, the findings. It shows the pictures beside it and needs no network. Throws Error
/// (environment).
void write_page(const std::filesystem::path& folder, const Report& report);

}  // namespace fluxlora::prepare
